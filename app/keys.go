package app

import (
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
)

// knownKeys lists every key with the type of its value.
func knownKeys() map[string]reflect.Type {
	keys := map[string]reflect.Type{}
	addKeys(keys, "", reflect.TypeFor[Config]())
	return keys
}

func addKeys(keys map[string]reflect.Type, at string, t reflect.Type) {
	for f := range t.Fields() {
		path := strings.TrimPrefix(at+"."+f.Tag.Get("koanf"), ".")
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
	default:
		return "a number"
	}
}

// unknownKey names the nearest key that exists.
func unknownKey(path, where string, known map[string]reflect.Type) error {
	next := "The keys are: " + strings.Join(siblings(path, known), ", ")
	if near := nearest(path, known); near != "" {
		next = "Did you mean " + near + "?"
	}
	return job.Errorf("read configuration "+where, job.Invalid, next, "there is no key %q", path)
}

// siblings lists what may stand where path does.
func siblings(path string, known map[string]reflect.Type) []string {
	at := ""
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		at = path[:i+1]
	}
	var names []string
	for key := range known {
		rest, ok := strings.CutPrefix(key, at)
		if name, _, _ := strings.Cut(rest, "."); ok && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// nearest finds the key or section that was probably meant; "" if nothing is near. The right last word in the wrong
// section is nearer than a wrong word.
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
