package app

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
)

// bandwidthKey has an old name, which is read for one version more.
const (
	bandwidthKey    = "limits.bandwidth_per_job"
	oldBandwidthKey = "limits.bandwidth"
)

// Deprecation is an old key that a configuration sets, and the key to set instead.
type Deprecation struct{ Old, New string }

// removedSections are sections of earlier versions. No version has used them.
func removedSections() []string { return []string{"remote"} }

// knownKeys lists every key with the type of its value.
func knownKeys() map[string]reflect.Type {
	keys := map[string]reflect.Type{}
	addKeys(keys, "", reflect.TypeFor[Config]())
	return keys
}

// Keys lists every key that an operator can set, sorted, without old names.
func Keys() []string {
	keys := slices.Sorted(maps.Keys(knownKeys()))
	return slices.DeleteFunc(keys, func(key string) bool { return key == oldBandwidthKey })
}

func addKeys(keys map[string]reflect.Type, at string, t reflect.Type) {
	for f := range t.Fields() {
		key := f.Tag.Get("koanf")
		if key == "-" {
			continue
		}
		path := strings.TrimPrefix(at+"."+key, ".")
		if f.Type.Kind() == reflect.Struct {
			addKeys(keys, path, f.Type)
			continue
		}
		keys[path] = f.Type
	}
}

func isSection(path string, known map[string]reflect.Type) bool {
	for key := range known {
		if strings.HasPrefix(key, path+".") {
			return true
		}
	}
	return false
}

func typeName(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration"
	case t == reflect.TypeFor[Size]():
		return "a number of bytes"
	case t.Kind() == reflect.Slice:
		return "a list"
	case t.Kind() == reflect.String:
		return "a text"
	case t.Kind() == reflect.Bool:
		return "true or false"
	default:
		return "a number"
	}
}

// unknownKey is the error for a key that does not exist. Its next step names the nearest key that does.
func unknownKey(path, where string, known map[string]reflect.Type) error {
	op := "read configuration " + where
	if section, _, _ := strings.Cut(path, "."); slices.Contains(removedSections(), section) {
		return job.Errorf(op, job.Invalid, "Leave out the section "+section,
			"there is no key %q: this version has no section %s", path, section)
	}
	next := "Use one of the keys: " + strings.Join(siblings(path, known), ", ")
	if near := nearest(path, known); near != "" {
		next = "Did you mean " + near + "?"
	}
	return job.Errorf(op, job.Invalid, next, "there is no key %q", path)
}

// siblings lists the keys and sections beside path, without old ones.
func siblings(path string, known map[string]reflect.Type) []string {
	at := ""
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		at = path[:i+1]
	}
	var names []string
	for key := range known {
		rest, ok := strings.CutPrefix(key, at)
		if key == oldBandwidthKey {
			continue
		}
		if name, _, _ := strings.Cut(rest, "."); ok && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// nearest finds the key or section that was probably meant; "" if none is near. A key with the same last word in
// another section is nearer than a key with another last word. For an old key it returns the new one.
func nearest(path string, known map[string]reflect.Type) string {
	candidates := map[string]bool{}
	for key := range known {
		for key != "" {
			candidates[key] = true
			key = key[:max(0, strings.LastIndexByte(key, '.'))]
		}
	}
	best, least := "", max(2, len(path)/3)+1
	for c := range candidates {
		d := distance(path, c)
		if last(path) == last(c) && path != c {
			d = min(d, 1)
		}
		if d < least || d == least && best != "" && c < best {
			best, least = c, d
		}
	}
	if best == oldBandwidthKey {
		return bandwidthKey
	}
	return best
}

func last(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

// distance is the number of single-character edits between two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost = 1 + min(before, row[j], row[j+1])
			}
			before, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
