package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"unicode"

	"vitastor/internal/meta"
	"vitastor/libclient/client"
)

// source is where dd reads. Methods may be called by several goroutines if it
// is seekable.
type source interface {
	// size is how long it is, if that is known.
	size() (bytes uint64, known bool)
	seekable() bool
	// read fills p, or less at the end. hole: there is nothing but zeroes, and
	// the source knows it.
	read(p []byte, offset uint64) (n int, hole bool, err error)
	close()
}

// sink is where dd writes.
type sink interface {
	seekable() bool
	write(p []byte, offset uint64) error
	// empty tells whether the range has nothing but zeroes already.
	empty(offset uint64, bytes int) (bool, error)
	// extend makes it at least so long.
	extend(bytes uint64) error
	sync() error
	close()
}

// alignedBuffer is a buffer for direct I/O. It lives as long as the process.
func alignedBuffer(n int) []byte {
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return make([]byte, n)
	}
	return b
}

// fileEnd is a file or a device at either end.
type fileEnd struct {
	f       *os.File
	name    string
	bytes   uint64 // size at the beginning
	canSeek bool
	fresh   bool // was empty at the beginning
}

func openFile(name string, flags int, std *os.File) (*fileEnd, error) {
	e := &fileEnd{f: std, name: name}
	if name != "" {
		f, err := os.OpenFile(name, flags, 0o666)
		if err != nil {
			return nil, fail(errnoOf(err), "Failed to open %s: %s", name, strerror(err))
		}
		e.f = f
	}
	info, err := e.f.Stat()
	if err != nil {
		return nil, fail(errnoOf(err), "Failed to stat %s: %s", name, strerror(err))
	}
	switch mode := info.Mode(); {
	case mode.IsRegular():
		e.bytes, e.canSeek = uint64(info.Size()), true
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		end, err := e.f.Seek(0, io.SeekEnd)
		if err != nil {
			return nil, fail(errnoOf(err), "Failed to get the size of %s: %s", name, strerror(err))
		}
		e.bytes, e.canSeek = uint64(end), true
	}
	e.fresh = e.bytes == 0
	return e, nil
}

func (e *fileEnd) size() (uint64, bool) { return e.bytes, e.canSeek }
func (e *fileEnd) seekable() bool       { return e.canSeek }

func (e *fileEnd) read(p []byte, offset uint64) (int, bool, error) {
	var n int
	var err error
	if e.canSeek {
		n, err = e.f.ReadAt(p, int64(offset))
	} else {
		n, err = io.ReadFull(e.f, p)
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return n, false, fail(errnoOf(err), "Failed to read %d bytes from %s at offset %d: %s", len(p), e.shown(), offset, strerror(err))
	}
	return n, false, nil
}

// skip reads over bytes of what cannot seek.
func (e *fileEnd) skip(bytes uint64) error {
	if e.canSeek || bytes == 0 {
		return nil
	}
	if _, err := io.CopyN(io.Discard, e.f, int64(bytes)); err != nil {
		return fail(syscall.EINVAL, "Input seek position is beyond end of input")
	}
	return nil
}

func (e *fileEnd) write(p []byte, offset uint64) error {
	var err error
	if e.canSeek {
		_, err = e.f.WriteAt(p, int64(offset))
	} else {
		_, err = e.f.Write(p)
	}
	if err != nil {
		return fail(errnoOf(err), "Failed to write %d bytes to %s at offset %d: %s", len(p), e.shown(), offset, strerror(err))
	}
	return nil
}

func (e *fileEnd) empty(offset uint64, _ int) (bool, error) { return e.fresh || offset >= e.bytes, nil }

func (e *fileEnd) extend(bytes uint64) error {
	info, err := e.f.Stat()
	if err != nil || !info.Mode().IsRegular() || uint64(info.Size()) >= bytes {
		return err
	}
	if err := e.f.Truncate(int64(bytes)); err != nil {
		return fail(errnoOf(err), "Failed to truncate %s: %s", e.shown(), strerror(err))
	}
	return nil
}

func (e *fileEnd) sync() error {
	if err := e.f.Sync(); err != nil && e.canSeek {
		return fail(errnoOf(err), "Failed to fsync %s: %s", e.shown(), strerror(err))
	}
	return nil
}

func (e *fileEnd) close() {
	if e.name != "" {
		e.f.Close()
	}
}

func (e *fileEnd) shown() string {
	if e.name == "" {
		return e.f.Name()
	}
	return e.name
}

// imageEnd is an image at either end. It follows its name: after a snapshot the
// same name is another inode.
type imageEnd struct {
	c       *cluster
	name    string
	bytes   uint64
	granule uint64
	watch   *client.Watch
}

func (c *cluster) openImage(name string) (*imageEnd, error) {
	e := &imageEnd{c: c, name: name}
	found, pooled := false, false
	err := c.on(func() {
		e.watch = c.client.Watch(name, nil)
		if i := e.watch.Image(); i != nil {
			found, e.bytes = true, i.Size
			g, ok := c.client.Geometry(i.ID)
			pooled, e.granule = ok, uint64(g.GranuleBytes)
		}
	})
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, fail(syscall.ENOENT, "Image %s does not exist", name)
	case !pooled:
		return nil, fail(syscall.ENOENT, "Pool of image %s does not exist", name)
	}
	return e, nil
}

func (e *imageEnd) size() (uint64, bool) { return e.bytes, true }
func (e *imageEnd) seekable() bool       { return true }

// do executes an operation on what the name means now.
func (e *imageEnd) do(what string, op *client.Op) error {
	errno, err := await(e.c, func(done func(syscall.Errno)) {
		i := e.watch.Image()
		if i == nil {
			done(syscall.ENOENT)
			return
		}
		op.Inode = i.ID
		op.Done = func(op *client.Op) { done(op.Err) }
		e.c.client.Submit(op)
	})
	if err == nil && errno != 0 {
		err = fail(errno, "Failed to %s image %s at offset %d: %s (code %d)", what, e.name, op.Offset, strerror(errno), -int(errno))
	}
	return err
}

func (e *imageEnd) read(p []byte, offset uint64) (int, bool, error) {
	bytes := (uint64(len(p)) + e.granule - 1) / e.granule * e.granule
	buf := p
	if bytes != uint64(len(p)) {
		buf = make([]byte, bytes)
	}
	bitmap := make(meta.Bitmap, (bytes/e.granule+7)/8)
	op := &client.Op{Kind: client.Read, Offset: offset, Bytes: bytes, Iov: [][]byte{buf}, Bitmap: bitmap}
	if err := e.do(fmt.Sprintf("read %d bytes from", bytes), op); err != nil {
		return 0, false, err
	}
	copy(p, buf)
	return len(p), !bitmap.Any(0, int(bytes/e.granule)), nil
}

// write pads the end with zeroes.
func (e *imageEnd) write(p []byte, offset uint64) error {
	if pad := len(p) % int(e.granule); pad != 0 {
		p = append(append(make([]byte, 0, len(p)+int(e.granule)), p...), make([]byte, int(e.granule)-pad)...)
	}
	return e.do(fmt.Sprintf("write %d bytes to", len(p)), &client.Op{Kind: client.Write, Offset: offset, Bytes: uint64(len(p)), Iov: [][]byte{p}})
}

func (e *imageEnd) empty(offset uint64, n int) (bool, error) {
	units := (uint64(n) + e.granule - 1) / e.granule
	bitmap := make(meta.Bitmap, (units+7)/8)
	err := e.do("read the bitmap of", &client.Op{Kind: client.ReadChainBitmap, Offset: offset, Bytes: units * e.granule, Bitmap: bitmap})
	return err == nil && !bitmap.Any(0, int(units)), err
}

func (e *imageEnd) extend(uint64) error { return nil } // was done before

func (e *imageEnd) sync() error { return e.do("sync", &client.Op{Kind: client.Sync}) }

func (e *imageEnd) close() { e.c.on(e.watch.Close) }

// aligned refuses what OSDs cannot do.
func (e *imageEnd) aligned(what string, values ...uint64) error {
	for _, v := range values {
		if v%e.granule != 0 {
			return fail(syscall.EINVAL, "Unaligned %s Vitastor is not supported", what)
		}
	}
	return nil
}

func (j *ddJob) openInput() error {
	if j.inImage == "" {
		flags := os.O_RDONLY
		if j.inDirect {
			flags |= syscall.O_DIRECT
		}
		e, err := openFile(j.in, flags, os.Stdin)
		if err != nil {
			return err
		}
		j.src = e
		return e.skip(j.skip)
	}
	c, err := j.connect()
	if err != nil {
		return err
	}
	e, err := c.openImage(j.inImage)
	if err != nil {
		return err
	}
	j.src = e
	return e.aligned("read from", j.block, j.skip)
}

func (j *ddJob) openOutput() error {
	if j.outImage != "" {
		return j.openOutputImage()
	}
	flags := os.O_WRONLY
	if j.create {
		flags |= os.O_CREATE
	}
	if j.outDirect {
		flags |= syscall.O_DIRECT
	}
	if j.appending {
		flags |= os.O_APPEND
	}
	e, err := openFile(j.out, flags, os.Stdout)
	if err != nil {
		return err
	}
	if j.appending || j.out == "" {
		e.canSeek = false
	}
	if j.trunc && e.canSeek {
		if err := e.f.Truncate(int64(j.seek)); err != nil {
			e.close()
			return fail(errnoOf(err), "Failed to truncate %s: %s", j.out, strerror(err))
		}
		e.bytes = min(e.bytes, j.seek)
		e.fresh = e.bytes == 0
	}
	j.dst = e
	return nil
}

// openOutputImage creates or resizes it first, if needed.
func (j *ddJob) openOutputImage() error {
	s, err := j.state()
	if err != nil {
		return err
	}
	needed := (j.seek + j.limit + imageAlign - 1) / imageAlign * imageAlign
	switch image := s.image(j.outImage); {
	case image == nil && !j.create:
		return fail(syscall.ENOENT, "Image %s does not exist", j.outImage)
	case image == nil && strings.Contains(j.outImage, "@"):
		return fail(syscall.EINVAL, "Image name can't contain @ character")
	case image == nil && !j.limited:
		return fail(syscall.EINVAL, "Input size is unknown, specify size to create output image %s", j.outImage)
	case image == nil:
		if j.text("pool") == "" && len(s.pools) != 1 {
			return fail(syscall.ENOENT, "Pool to create output image %s is not specified", j.outImage)
		}
		j.options["force_size"] = "1"
		if _, err := j.createImage(j.outImage, needed); err != nil {
			return err
		}
	case j.limited && !image.ReadOnly && (image.Size < needed || j.trunc && image.Size > needed):
		if _, _, err := j.modifyImage(j.outImage, &imageChange{resize: true, size: needed, forceSize: true, data: j.dataOptions()}); err != nil {
			return err
		}
	}
	e, err := j.conn.openImage(j.outImage)
	if err != nil {
		return err
	}
	j.dst = e
	return e.aligned("write to", j.block, j.seek)
}

// strerror is the text of an error, as C programs print it.
func strerror(err error) string {
	var n syscall.Errno
	text := err.Error()
	if errors.As(err, &n) {
		text = n.Error()
	}
	r := []rune(text)
	if len(r) > 0 {
		r[0] = unicode.ToUpper(r[0])
	}
	return string(r)
}

// ddWords offers image names behind the keys of dd.
func ddWords(names []string, toComplete string) []string {
	key, _, found := strings.Cut(toComplete, "=")
	if !found {
		return []string{"iimg=", "oimg=", "if=", "of=", "bs=", "count=", "seek=", "skip=", "conv=", "status="}
	}
	if key != "iimg" && key != "oimg" {
		return nil
	}
	list := make([]string, len(names))
	for i, n := range names {
		list[i] = key + "=" + n
	}
	return list
}
