package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The numbers of the NBD protocol. All are big endian.
const (
	greeting    = "NBDMAGICIHAVEOPT"
	optionMagic = 0x49484156454F5054 // IHAVEOPT
	replyMagic  = 0x3e889045565a9

	requestMagic    = 0x25609513
	simpleMagic     = 0x67446698
	structuredMagic = 0x668e33ef

	fixedNewstyle = 1 << 0 // of the greeting, and of the client's answer
	noZeroes      = 1 << 1

	optExportName = 1
	optAbort      = 2
	optList       = 3
	optInfo       = 6
	optGo         = 7
	optStructured = 8
	optListMeta   = 9
	optSetMeta    = 10

	repAck     = 1
	repServer  = 2
	repInfo    = 3
	repMeta    = 4
	repError   = 1 << 31
	repUnsup   = repError + 1
	repInvalid = repError + 3
	repUnknown = repError + 6
	repNoBlock = repError + 8 // the client must ask for the block size
	repTooBig  = repError + 9

	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3

	flagHasFlags  = 1 << 0
	flagReadOnly  = 1 << 1
	flagFlush     = 1 << 2
	flagFUA       = 1 << 3
	flagTrim      = 1 << 5
	flagZero      = 1 << 6
	flagDF        = 1 << 7
	flagMultiConn = 1 << 8
	flagFastZero  = 1 << 11

	cmdRead       = 0
	cmdWrite      = 1
	cmdDisconnect = 2
	cmdFlush      = 3
	cmdTrim       = 4
	cmdZero       = 6
	cmdStatus     = 7

	cmdFUA      = 1 << 0 // flags of a request
	cmdNoHole   = 1 << 1
	cmdDF       = 1 << 2
	cmdReqOne   = 1 << 3
	cmdFastZero = 1 << 4

	chunkDone    = 1 << 0 // a flag: the last chunk of its reply
	chunkNone    = 0
	chunkData    = 1
	chunkHole    = 2
	chunkStatus  = 5
	chunkError   = 1<<15 + 1
	chunkErrorAt = 1<<15 + 2

	stateHole = 1 << 0
	stateZero = 1 << 1

	allocation   = "base:allocation"
	allocationID = 1 // our id for it
)

// errnos are the errors that NBD has numbers for.
func errnos() map[syscall.Errno]uint32 {
	return map[syscall.Errno]uint32{
		unix.EPERM: 1, unix.EIO: 5, unix.ENOMEM: 12, unix.EINVAL: 22, unix.ENOSPC: 28, unix.EOVERFLOW: 75,
		unix.ENOTSUP: 95, unix.ESHUTDOWN: 108,
	}
}

// wireErrno is the number of an error in NBD. An error that NBD has no number for is sent as EIO.
func wireErrno(err error) uint32 {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return errnos()[unix.EIO]
	}
	switch errno {
	case unix.EROFS, unix.EACCES:
		errno = unix.EPERM
	case unix.EFBIG, unix.EDQUOT:
		errno = unix.ENOSPC
	default:
	}
	if code, ok := errnos()[errno]; ok {
		return code
	}
	return errnos()[unix.EIO]
}

// parseErrno reads a name such as EIO, or any number.
func parseErrno(s string) (uint32, error) {
	for errno, code := range errnos() {
		if strings.EqualFold(unix.ErrnoName(errno), s) || errno == unix.ENOTSUP && strings.EqualFold(s, "ENOTSUP") {
			return code, nil
		}
	}
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is neither an errno of NBD nor a number", s)
	}
	return uint32(n), nil
}

func formatErrno(code uint32) string {
	for errno, c := range errnos() {
		if c == code && errno != unix.ENOTSUP {
			return unix.ErrnoName(errno)
		}
	}
	if code == errnos()[unix.ENOTSUP] {
		return "ENOTSUP"
	}
	return fmt.Sprintf("%#x", code)
}

func be16(b []byte, n uint16) []byte { return binary.BigEndian.AppendUint16(b, n) }
func be32(b []byte, n uint32) []byte { return binary.BigEndian.AppendUint32(b, n) }
func be64(b []byte, n uint64) []byte { return binary.BigEndian.AppendUint64(b, n) }

// optionReply is one answer to an option.
func optionReply(option, kind uint32, payload []byte) []byte {
	b := be32(be32(be32(be64(nil, replyMagic), option), kind), uint32(len(payload)))
	return append(b, payload...)
}

// simpleReply is the head of a simple reply.
func simpleReply(code uint32, cookie uint64) []byte {
	return be64(be32(be32(nil, simpleMagic), code), cookie)
}

// chunkHead is the head of a chunk of a structured reply. The chunk's body has length bytes.
func chunkHead(flags, kind uint16, cookie uint64, length uint32) []byte {
	return be32(be64(be16(be16(be32(nil, structuredMagic), flags), kind), cookie), length)
}

// dataChunk is a chunk with the data at off.
func dataChunk(flags uint16, cookie, off uint64, data []byte) []byte {
	b := make([]byte, 0, 28+len(data))
	b = append(b, chunkHead(flags, chunkData, cookie, uint32(8+len(data)))...)
	return append(be64(b, off), data...)
}

// holeChunk is a chunk that says that there are n zeros at off.
func holeChunk(flags uint16, cookie, off uint64, n uint32) []byte {
	return be32(be64(chunkHead(flags, chunkHole, cookie, 12), off), n)
}

// errorChunk is a chunk with an error and its text.
func errorChunk(cookie uint64, code uint32, words string) []byte {
	b := be16(be32(chunkHead(chunkDone, chunkError, cookie, uint32(6+len(words))), code), uint16(len(words)))
	return append(b, words...)
}
