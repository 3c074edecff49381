package job

import (
	"bytes"
	"errors"
	"fmt"
)

// secretMost is in bytes: more than any password, and less than most files that are given by mistake.
const secretMost = 4096

// SecretFrom takes the text of a file that holds a secret and nothing else. A byte order mark before it and line ends
// after it, as editors put them there, are not part of it. Text that is empty, has several lines, or is not what a
// person would type is refused; no error quotes it.
func SecretFrom(text []byte) (Secret, error) {
	if len(text) > secretMost {
		return Secret{}, fmt.Errorf("it has more than %d bytes, so it is not a password", secretMost)
	}
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		return Secret{}, errors.New("it is UTF-16 text, and must be UTF-8")
	}
	text = bytes.TrimRight(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), "\r\n")
	switch {
	case len(text) == 0:
		return Secret{}, errors.New("it is empty")
	case bytes.ContainsAny(text, "\r\n"):
		return Secret{}, errors.New("it holds more than a password: there is a line break inside")
	case bytes.ContainsRune(text, 0):
		return Secret{}, errors.New("it is not text: there is a zero byte inside")
	}
	return NewSecret(string(text)), nil
}
