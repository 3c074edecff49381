package cert

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vmferry/vmferry/job"
)

// readCertificates reads all certificates of a PEM file; at least one.
func readCertificates(path string) (list []*x509.Certificate, err error) {
	const op, next = "read certificates", "Make it with vmferry cert ca, or vmferry node join"
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, job.Errorf(op, job.NotFound, next, "%s does not exist", path)
	}
	if err != nil {
		return nil, job.SystemError(op, "Give the file to the user that runs vmferry", err)
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, job.Errorf(op, job.Invalid, next, "%s: %w", path, err)
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, job.Errorf(op, job.Invalid, next, "%s has no certificate", path)
	}
	return list, nil
}

// readPrivate reads a file that only its own user and group may read.
func readPrivate(path string) ([]byte, error) {
	const op = "read key"
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, job.Errorf(op, job.NotFound, "Make it with vmferry cert, or name the folder that has it",
			"%s does not exist", path)
	case err != nil:
		return nil, job.SystemError(op, "Give the file to the user that runs vmferry", err)
	case info.Mode().Perm()&0o007 != 0:
		return nil, job.Errorf(op, job.Invalid, "Type: chmod 0600 "+path,
			"every user of this machine can read or change %s (mode %04o)", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, job.SystemError(op, "Give the file to the user that runs vmferry", err)
	}
	return text, nil
}

// readRevoked reads a list of revoked certificates that one of the authorities has signed; nil if there is no file.
func readRevoked(path string, authorities []*x509.Certificate) (*x509.RevocationList, error) {
	const op, next = "read revoked certificates", "Copy revoked.pem from the authority's folder again"
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // no list
	}
	if err != nil {
		return nil, job.SystemError(op, "Give the file to the user that runs vmferry", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, job.Errorf(op, job.Invalid, next, "%s is not PEM", path)
	}
	list, err := x509.ParseRevocationList(block.Bytes)
	if err != nil {
		return nil, job.Errorf(op, job.Invalid, next, "%s: %w", path, err)
	}
	for _, a := range authorities {
		if list.CheckSignatureFrom(a) == nil {
			return list, nil
		}
	}
	return nil, job.Errorf(op, job.Auth, next, "%s is not signed by the authority", path)
}

// writeNew writes a file that must not be there yet, durably.
func writeNew(path string, text []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return job.Errorf("write "+filepath.Base(path), job.Conflict, "Name another folder, or keep what is there",
			"%s exists", path)
	}
	if err != nil {
		return job.SystemError("write "+filepath.Base(path), nextFolder, err)
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close(), syncDir(filepath.Dir(path))); err != nil {
		return job.SystemError("write "+filepath.Base(path), nextFolder, err)
	}
	return nil
}

// replace writes a file in one step, durably: readers see the old or the new content.
func replace(path string, text []byte, mode fs.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return job.SystemError("write "+filepath.Base(path), nextFolder, err)
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return job.SystemError("write "+filepath.Base(path), nextFolder, errors.Join(err, os.Remove(f.Name())))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// keyText is a key as it stands in a file.
func keyText(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("write key: %w", err)
	}
	return pemOf("PRIVATE KEY", der), nil
}
