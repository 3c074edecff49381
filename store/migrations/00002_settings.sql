-- +goose Up
CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    body TEXT NOT NULL -- JSON
) STRICT;

-- +goose Down
DROP TABLE settings;
