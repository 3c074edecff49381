package history

import "io/fs"

// WithMigrations is cfg with other migrations.
func WithMigrations(cfg Config, files fs.FS) Config {
	cfg.files = files
	return cfg
}

// Migrations are ours.
func Migrations() fs.FS {
	sub, _ := fs.Sub(migrations, "migrations")
	return sub
}
