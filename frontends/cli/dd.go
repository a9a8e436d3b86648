package cli

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const ddHelp = `Copies data between images and files. Arguments are key=value or --key value:
  iimg=IMAGE | if=FILE     from this image or file (default: standard input)
  oimg=IMAGE | of=FILE     to this image or file (default: standard output); a new image is created
  bs=N                     bytes at a time, default 1M
  count=N                  copy only N blocks; bytes with a suffix B, k, m, g or t
  seek=N, oseek=N          begin at this place of the output
  skip=N, iseek=N          begin at this place of the input
  iodepth=N                so many reads and writes at a time, default 4
  size=N                   size of the input, if it is not known
  status=LEVEL             none, noxfer or progress
  conv=nocreat,noerror,nofsync,trunc,nosparse
  iflag=direct  oflag=direct,append
Ranges without data, or full of zeroes, are not written if the output has nothing there (nosparse: always written).`

var ddOptions = []optionHelp{{"pool", "POOL", "where to create the output image, by name or ID (-p)"}, {"if", "FILE", ""}, {"of", "FILE", ""},
	{"iimg", "IMAGE", ""}, {"oimg", "IMAGE", ""}, {"bs", "N", ""}, {"count", "N", ""}, {"seek", "N", ""}, {"oseek", "N", ""}, {"skip", "N", ""},
	{"iseek", "N", ""}, {"status", "S", ""}, {"size", "N", ""}, {"conv", "LIST", ""}, {"iflag", "LIST", ""}, {"oflag", "LIST", ""}}

// ddJob is one copy.
type ddJob struct {
	*run
	in, out                        string // names of files; "" = standard input and output
	inImage, outImage              string
	block                          uint64
	count, seek, skip              uint64 // bytes; count: only if counted
	counted                        bool
	inSize                         uint64 // given by size=
	sizeGiven                      bool
	depth                          int
	create, sync                   bool
	trunc, sparse                  bool
	noError                        bool
	inDirect, outDirect, appending bool

	src source
	dst sink

	mu       sync.Mutex
	copied   uint64
	failed   *failure
	begun    time.Time
	progress *progress
	limit    uint64 // bytes to copy; only if limited
	limited  bool
}

func (r *run) dd() (result, error) {
	j, err := r.ddJob()
	if err != nil {
		return result{}, err
	}
	if err := j.openInput(); err != nil {
		return result{}, err
	}
	defer j.src.close()
	if err := j.measure(); err != nil {
		return result{}, err
	}
	if err := j.openOutput(); err != nil {
		return result{}, err
	}
	defer j.dst.close()
	j.begun, j.progress = now(), r.newProgress()
	j.copyAll()
	if j.failed == nil || j.noError {
		if err := j.finish(); err != nil && j.failed == nil {
			j.failed = err
		}
	}
	elapsed := now().Sub(j.begun)
	j.report(elapsed)
	if j.failed != nil && !j.noError {
		return result{}, j.failed
	}
	return result{data: object{"copied": j.copied, "seconds": elapsed.Seconds()}}, nil
}

// report prints the line that dd prints at its end.
func (j *ddJob) report(elapsed time.Duration) {
	switch {
	case !j.run.progress && j.word("status") == "none":
	case j.json:
		fmt.Fprintln(j.Err)
	default:
		fmt.Fprintf(j.Err, "\r%s\033[K\n", j.line(elapsed))
	}
}

func (j *ddJob) line(elapsed time.Duration) string {
	rate := 0.0
	if s := elapsed.Seconds(); s > 0 {
		rate = float64(j.copied) / s
	}
	return fmt.Sprintf("%d bytes (%s) copied, %.1f s, %s", j.copied, humanSize(j.copied), elapsed.Seconds(), speed(rate))
}

// word is an argument: key=value, or an option.
func (j *ddJob) word(name string) string {
	for _, w := range slices.Backward(j.words) {
		if key, value, ok := strings.Cut(w, "="); ok && key == name {
			return value
		}
	}
	return j.text(name)
}

// ddJob understands the arguments.
func (r *run) ddJob() (*ddJob, error) {
	j := &ddJob{run: r, create: true, sync: true, sparse: true, block: 1 << 20, depth: 4}
	known := []string{"if", "of", "iimg", "oimg", "bs", "count", "seek", "oseek", "skip", "iseek", "iodepth", "status", "size", "conv", "iflag", "oflag", "pool"}
	for _, w := range r.words {
		key, value, ok := strings.Cut(w, "=")
		if !ok || !slices.Contains(known, key) {
			return nil, fail(syscall.EINVAL, "Unknown argument %s: arguments of dd are key=value, see vitastor-cli --help dd", w)
		}
		if key == "pool" {
			r.options["pool"] = value
		}
	}
	j.in, j.out, j.inImage, j.outImage = j.word("if"), j.word("of"), j.word("iimg"), j.word("oimg")
	if j.in != "" && j.inImage != "" || j.out != "" && j.outImage != "" {
		return nil, fail(syscall.EINVAL, "Image and file can't be specified at the same time")
	}
	if j.in == j.out && j.inImage == j.outImage {
		return nil, fail(syscall.EINVAL, "Input and output image/file can't be equal")
	}
	return j, j.numbers()
}

// numbers reads sizes and flags.
func (j *ddJob) numbers() error {
	if v := j.word("bs"); v != "" {
		n, ok := parseSize(v)
		if !ok || n == 0 || n > 1<<30 {
			return fail(syscall.EINVAL, "Invalid block size bs=%s: it must be from 1 to 1G", v)
		}
		j.block = n
	}
	for _, f := range []struct {
		names []string
		to    *uint64
		given *bool
	}{{[]string{"count"}, &j.count, &j.counted}, {[]string{"oseek", "seek"}, &j.seek, nil}, {[]string{"iseek", "skip"}, &j.skip, nil}} {
		for _, name := range f.names {
			v := j.word(name)
			if v == "" {
				continue
			}
			n, ok := j.blocks(v)
			if !ok {
				return fail(syscall.EINVAL, "Invalid %s=%s: it must be a number of blocks, or of bytes with a suffix B, k, m, g or t", name, v)
			}
			if *f.to = n; f.given != nil {
				*f.given = true
			}
			break
		}
	}
	if v := j.word("size"); v != "" {
		if j.inSize, j.sizeGiven = parseSize(v); !j.sizeGiven {
			return fail(syscall.EINVAL, "Invalid size=%s", v)
		}
	}
	if n, ok := parseNumber(j.word("iodepth")); ok && n > 0 {
		j.depth = int(min(n, 1024))
	}
	return j.flags()
}

// blocks reads a number of blocks, or of bytes with a suffix.
func (j *ddJob) blocks(s string) (uint64, bool) {
	if text, bytes := strings.CutSuffix(strings.ToLower(s), "b"); bytes && !strings.HasPrefix(text, "0x") {
		return parseNumber(text)
	}
	n, ok := parseSize(s)
	if _, bare := parseNumber(s); bare {
		n *= j.block
	}
	return n, ok
}

func (j *ddJob) flags() error {
	for _, f := range []struct {
		name string
		set  map[string]func()
	}{
		{"conv", map[string]func(){"nocreat": func() { j.create = false }, "noerror": func() { j.noError = true }, "nofsync": func() { j.sync = false },
			"trunc": func() { j.trunc = true }, "nosparse": func() { j.sparse = false }, "sparse": func() {}, "fsync": func() {}, "notrunc": func() {}}},
		{"iflag", map[string]func(){"direct": func() { j.inDirect = true }}},
		{"oflag", map[string]func(){"direct": func() { j.outDirect = true }, "append": func() { j.appending = true }}},
	} {
		for _, v := range list(j.word(f.name)) {
			set := f.set[v]
			if set == nil {
				return fail(syscall.EINVAL, "Unknown option %s=%s", f.name, v)
			}
			set()
		}
	}
	return nil
}

// measure finds out how much is to be copied, as far as that is known.
func (j *ddJob) measure() error {
	size, known := j.src.size()
	if j.sizeGiven {
		size, known = j.inSize, true
	}
	if known && j.skip > size {
		return fail(syscall.EINVAL, "Input seek position is beyond end of input")
	}
	if known {
		j.limit, j.limited = size-j.skip, true
	}
	if j.counted && (!j.limited || j.count < j.limit) {
		j.limit, j.limited = j.count, true
	}
	return nil
}

// ddBlock is one block on its way.
type ddBlock struct {
	offset uint64 // from the beginning of the copy
	data   []byte
	hole   bool // nothing there
	ready  chan struct{}
	err    error
	buf    []byte
}

// copyAll runs the copy: reads are started in order, several at a time if the
// input can be read anywhere; writes follow, in order if the output demands it.
func (j *ddJob) copyAll() {
	queue := make(chan *ddBlock, j.depth)
	free := make(chan []byte, 3*j.depth+1)
	for range cap(free) {
		free <- nil // made when needed
	}
	writers := j.depth
	if !j.dst.seekable() {
		writers = 1
	}
	var done sync.WaitGroup
	for range writers {
		done.Go(func() {
			for b := range queue {
				<-b.ready
				j.write(b)
				free <- b.buf
			}
		})
	}
	for offset := uint64(0); (!j.limited || offset < j.limit) && j.goOn(); offset += j.block {
		b := &ddBlock{offset: offset, ready: make(chan struct{}), buf: <-free}
		if b.buf == nil {
			b.buf = alignedBuffer(int(j.block))
		}
		b.data = b.buf
		if j.limited {
			b.data = b.buf[:min(j.block, j.limit-offset)]
		}
		if j.src.seekable() {
			go j.read(b)
			queue <- b
			continue
		}
		want := len(b.data)
		j.read(b)
		queue <- b
		if b.err != nil || len(b.data) < want { // the end
			break
		}
	}
	close(queue)
	done.Wait()
}

func (j *ddJob) goOn() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failed == nil || j.noError
}

func (j *ddJob) read(b *ddBlock) {
	var n int
	n, b.hole, b.err = j.src.read(b.data, j.skip+b.offset)
	if b.err != nil && j.noError {
		clear(b.data) // like dd conv=noerror,sync
		j.fail(b.err)
		b.err, n = nil, len(b.data)
	}
	b.data = b.data[:n]
	close(b.ready)
}

func (j *ddJob) write(b *ddBlock) {
	if b.err != nil {
		j.fail(b.err)
		return
	}
	if len(b.data) == 0 || !j.goOn() {
		return
	}
	if j.sparse && j.dst.seekable() && (b.hole || isZero(b.data)) {
		if empty, err := j.dst.empty(j.seek+b.offset, len(b.data)); err == nil && empty {
			return
		}
	}
	if err := j.dst.write(b.data, j.seek+b.offset); err != nil {
		j.fail(err)
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.copied += uint64(len(b.data))
	if j.word("status") == "progress" || j.color {
		j.progress.at(j.copied, j.limit, j.line(now().Sub(j.begun)))
	}
}

// fail keeps the first error; with noerror all are told.
func (j *ddJob) fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f, ok := err.(*failure)
	if !ok {
		f = fail(errnoOf(err), "%v", err)
	}
	if j.noError {
		j.note("%s", f.text)
	}
	if j.failed == nil {
		j.failed = f
	}
}

// finish makes the output as long as it has to be, and durable.
func (j *ddJob) finish() *failure {
	if j.limited && j.dst.seekable() {
		if err := j.dst.extend(j.seek + j.limit); err != nil {
			return fail(errnoOf(err), "%v", err)
		}
	}
	if j.sync {
		if err := j.dst.sync(); err != nil {
			return fail(errnoOf(err), "%v", err)
		}
	}
	return nil
}

func isZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
