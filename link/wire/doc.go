// Package wire has the frames of the link, generated from link.proto by protoc (Debian's protobuf-compiler) and
// protoc-gen-go v1.36.12. It has no rules: package link checks what is read.
package wire

//go:generate protoc --go_out=. --go_opt=paths=source_relative link.proto
