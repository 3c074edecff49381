package app

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	koanfyaml "github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/structs"
	"github.com/knadh/koanf/v2"
	"go.yaml.in/yaml/v3"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/store/history"
)

// StandardFile is read when no file is named, if it exists.
const StandardFile = "/etc/vmferry/vmferry.yaml"

const (
	envPrefix = "VMFERRY_"
	maxConfig = 1 << 20 // bytes of a configuration file; a larger file is no configuration
)

// Sources are the sources of a configuration. Later ones override earlier ones: defaults, File, Environ, Flags.
type Sources struct {
	File    string            // "" for StandardFile if that exists
	Environ []string          // as os.Environ gives it
	Flags   map[string]string // by key, as in "vcenter.url"
}

// Load reads and checks a configuration. ignored has the names of environment variables that begin with VMFERRY_ and
// set no key. Errors are of kind Invalid, NotFound or Permission and name the key, the line if there is one, and the
// next step.
func Load(src Sources) (cfg Config, ignored []string, err error) {
	known := knownKeys()
	set, ignored, err := loadSources(src, known)
	if err != nil {
		return Config{}, nil, err
	}
	k := koanf.New(".")
	if err := k.Load(structs.Provider(DefaultConfig(), "koanf"), nil); err != nil {
		return Config{}, nil, fmt.Errorf("load defaults: %w", err)
	}
	if err := k.Merge(set); err != nil {
		return Config{}, nil, fmt.Errorf("merge configuration: %w", err)
	}
	if err := decode(k, &cfg); err != nil {
		return Config{}, nil, err
	}
	if err := cfg.settle(); err != nil {
		return cfg, ignored, err
	}
	return cfg, ignored, cfg.renameBandwidth(set)
}

// loadSources reads the keys that are set: by the file, the environment and the flags.
func loadSources(src Sources, known map[string]reflect.Type) (set *koanf.Koanf, ignored []string, err error) {
	k := koanf.New(".")
	if err := loadFile(k, src.File, known); err != nil {
		return nil, nil, err
	}
	vars, ignored := fromEnviron(src.Environ, known)
	if err := k.Load(vars, nil); err != nil {
		return nil, nil, configError(err, "read the environment")
	}
	for key, value := range src.Flags {
		typ, ok := known[key]
		if !ok {
			return nil, nil, unknownKey(key, "flag", known)
		}
		if err := k.Set(key, native(value, typ)); err != nil {
			return nil, nil, configError(err, "read flag "+key)
		}
	}
	return k, ignored, nil
}

// renameBandwidth moves the value of the old key to the new one. It refuses a configuration that sets both, in whatever
// source: the old value would be ignored otherwise.
func (cfg *Config) renameBandwidth(set *koanf.Koanf) error {
	if !set.Exists(oldBandwidthKey) {
		return nil
	}
	if set.Exists(bandwidthKey) {
		return wrong(oldBandwidthKey, "Remove "+oldBandwidthKey+" (environment: "+EnvName(oldBandwidthKey)+")",
			"this is the old name of %s, and both are set", bandwidthKey)
	}
	cfg.Limits.BandwidthPerJob, cfg.Limits.Bandwidth = cfg.Limits.Bandwidth, 0
	cfg.Deprecated = append(cfg.Deprecated, Deprecation{Old: oldBandwidthKey, New: bandwidthKey})
	return nil
}

// loadFile merges the file into k.
func loadFile(k *koanf.Koanf, file string, known map[string]reflect.Type) error {
	text, err := readFile(file)
	if err != nil || text == nil {
		return err
	}
	if err := checkFile(text, file, known); err != nil {
		return err
	}
	return k.Load(content(text), parser{koanfyaml.Parser()})
}

func readFile(file string) ([]byte, error) {
	const op = "read configuration"
	named := file != ""
	if !named {
		file = StandardFile
	}
	f, err := os.Open(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !named:
		return nil, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, &job.Error{
			Op: op, Kind: job.NotFound,
			Next: "Name an existing file with --config, or leave it out to use the defaults", Err: err,
		}
	case err != nil:
		return nil, job.SystemError(op, "Let the user that runs vmferry read it", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, &job.Error{Op: op, Kind: job.Invalid, Next: "Name a YAML file", Err: err}
	}
	if len(text) > maxConfig {
		return nil, job.Errorf(op, job.Invalid, "Name a YAML file", "%s is larger than a configuration can be", file)
	}
	return text, nil
}

// checkFile refuses what YAML allows and a configuration does not: unknown keys, several documents, a key twice.
func checkFile(text []byte, file string, known map[string]reflect.Type) error {
	if file == "" {
		file = StandardFile
	}
	bad := func(next, format string, args ...any) error {
		return job.Errorf("read configuration "+file, job.Invalid, next, format, args...)
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return bad("Correct the YAML", "%w", err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return bad("Keep one YAML document in the file", "there is something after the first document")
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil
	}
	if root.Kind != yaml.MappingNode {
		return bad("Write keys and values, as in \"listen: 127.0.0.1:8081\"", "line %d: a configuration is a mapping",
			root.Line)
	}
	return checkNode(root, "", file, known)
}

// checkElements checks the keys of each element of a list of structs.
func checkElements(n *yaml.Node, at, file string, t reflect.Type) error {
	keys := map[string]reflect.Type{}
	addKeys(keys, at, t)
	if n.Kind != yaml.SequenceNode {
		return job.Errorf(fmt.Sprintf("read configuration %s line %d", file, n.Line), job.Invalid,
			"Begin each with a dash, indented", "%s is a list", at)
	}
	for _, e := range n.Content {
		if e.Kind != yaml.MappingNode {
			return job.Errorf(fmt.Sprintf("read configuration %s line %d", file, e.Line), job.Invalid,
				"Use the keys: "+strings.Join(siblings(at+".", keys), ", "), "an element of %s has keys", at)
		}
		if err := checkNode(e, at, file, keys); err != nil {
			return err
		}
	}
	return nil
}

func checkNode(n *yaml.Node, at, file string, known map[string]reflect.Type) error {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		path := strings.TrimPrefix(at+"."+key.Value, ".")
		where := fmt.Sprintf("%s line %d", file, key.Line)
		if first, twice := seen[key.Value]; twice {
			return job.Errorf("read configuration "+where, job.Invalid, "Keep one of them",
				"%s is set already in line %d", path, first)
		}
		seen[key.Value] = key.Line
		switch typ, ok := known[path]; {
		case ok && value.Kind == yaml.MappingNode:
			return job.Errorf("read configuration "+where, job.Invalid, "Write its value after the colon",
				"%s is %s, not a section", path, typeName(typ))
		case ok && typ == reflect.TypeFor[[]Webhook]():
			if err := checkElements(value, path, file, reflect.TypeFor[Webhook]()); err != nil {
				return err
			}
		case ok:
		case !isSection(path, known):
			return unknownKey(path, where, known)
		case value.Kind == yaml.MappingNode:
			if err := checkNode(value, path, file, known); err != nil {
				return err
			}
		case value.Kind != yaml.ScalarNode || value.Tag != "!!null":
			return job.Errorf("read configuration "+where, job.Invalid, "Write its keys below it, indented",
				"%s is a section", path)
		}
	}
	return nil
}

// content is a koanf.Provider of bytes in memory.
type content []byte

func (c content) ReadBytes() ([]byte, error)  { return c, nil }
func (content) Read() (map[string]any, error) { return nil, errors.New("content has bytes only") }

// parser drops keys without a value, so that they do not override a default.
type parser struct{ *koanfyaml.YAML }

func (p parser) Unmarshal(b []byte) (map[string]any, error) {
	m, err := p.YAML.Unmarshal(b)
	dropNull(m)
	return m, err
}

func dropNull(m map[string]any) {
	for k, v := range m {
		switch v := v.(type) {
		case nil:
			delete(m, k)
		case map[string]any:
			dropNull(v)
		}
	}
}

// notSettings says whether a variable of vmferry is for its other commands, and does not configure the daemon.
func notSettings(name string) bool {
	return slices.Contains([]string{
		"VMFERRY_CONFIG", "VMFERRY_SERVER", "VMFERRY_TOKEN_FILE", "VMFERRY_CA_FILE",
	}, name)
}

func fromEnviron(environ []string, known map[string]reflect.Type) (koanf.Provider, []string) {
	keys := map[string]string{}
	for key := range known {
		keys[EnvName(key)] = key
	}
	var ignored []string
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		if _, ok := keys[name]; !ok && strings.HasPrefix(name, envPrefix) && !notSettings(name) {
			ignored = append(ignored, name)
		}
	}
	return env.Provider(".", env.Opt{
		Prefix:      envPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			key, ok := keys[name]
			if !ok {
				return "", nil
			}
			return key, native(value, known[key])
		},
	}), ignored
}

// EnvName is the environment variable that sets a key.
func EnvName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// native turns the text of a variable or flag into the value that YAML would have.
func native(text string, typ reflect.Type) any {
	if typ.Kind() == reflect.Slice {
		parts := []any{}
		for p := range strings.SplitSeq(text, ",") {
			if p = strings.TrimSpace(p); p != "" {
				parts = append(parts, p)
			}
		}
		return parts
	}
	var v any
	number := typ.Kind() == reflect.Int || typ.Kind() == reflect.Float64 || typ.Kind() == reflect.Bool
	if number && yaml.Unmarshal([]byte(text), &v) == nil && v != nil {
		return v
	}
	return text
}

func decode(k *koanf.Koanf, cfg *Config) error {
	err := k.UnmarshalWithConf("", cfg, koanf.UnmarshalConf{Tag: "koanf", DecoderConfig: &mapstructure.DecoderConfig{
		Result:      cfg,
		ErrorUnused: true,
		DecodeHook: mapstructure.ComposeDecodeHookFunc(
			mapstructure.DecodeHookFuncType(readDuration), mapstructure.DecodeHookFuncType(readNumber),
			mapstructure.TextUnmarshallerHookFunc()),
	}})
	if err != nil {
		return configError(err, "read configuration")
	}
	return nil
}

// readDuration demands a unit: a bare number means nanoseconds to Go and seconds to a person.
func readDuration(from, to reflect.Type, data any) (any, error) {
	if to != reflect.TypeFor[time.Duration]() || from == to {
		return data, nil
	}
	s, ok := data.(string)
	if !ok {
		return nil, fmt.Errorf("%v needs a unit, as in 2s or 500ms", data)
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return nil, fmt.Errorf("%q is not a duration such as 2s or 500ms", s)
	}
	return d, nil
}

// readNumber refuses fractions for whole numbers.
func readNumber(_, to reflect.Type, data any) (any, error) {
	f, ok := data.(float64)
	if whole := to.Kind() == reflect.Int || to.Kind() == reflect.Int64; ok && whole && f != float64(int64(f)) {
		return nil, fmt.Errorf("%v is not a whole number", data)
	}
	return data, nil
}

// configError makes one error of all that the decoder found.
func configError(err error, op string) error {
	var many interface{ WrappedErrors() []error }
	if errors.As(err, &many) {
		err = errors.Join(many.WrappedErrors()...)
	}
	return &job.Error{
		Op: op, Kind: job.Invalid, Next: "Correct the value; deploy/vmferry.yaml explains every key",
		Err: err,
	}
}

// settle sets the defaults that depend on other keys, then checks all keys.
func (cfg *Config) settle() error {
	if cfg.Listen == "" {
		port := portVMA
		if cfg.Role == OMA {
			port = portOMA
		}
		cfg.Listen = "127.0.0.1:" + port
	}
	if cfg.StateDir == "" {
		cfg.StateDir = StandardStateDir()
	}
	if len(cfg.Nodes) == 0 {
		cfg.Nodes = nil
	}
	if len(cfg.Targets.Roots) == 0 {
		cfg.Targets.Roots = []string{filepath.Join(cfg.StateDir, "targets")}
	}
	if len(cfg.Webhooks) == 0 {
		cfg.Webhooks = nil
	}
	if cfg.SQL.Driver == "" {
		cfg.SQL.Driver = cfg.standardSQL()
	}
	return cfg.check()
}

func (cfg *Config) standardSQL() string {
	switch {
	case cfg.SQL.DSNFile != "":
		return history.MariaDB
	case cfg.Role == VMA:
		return NoSQL
	default:
		return history.SQLite
	}
}

// StandardStateDir is /var/lib/vmferry for root, and below $XDG_STATE_HOME or ~/.local/state for other users.
func StandardStateDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/vmferry"
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "vmferry")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "vmferry")
	}
	return filepath.Join(os.TempDir(), "vmferry")
}
