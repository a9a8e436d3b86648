package workload

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

// memory is an image that can be wrong on purpose.
type memory struct {
	sync.Mutex
	data  []byte
	wrong func(m *memory, b []byte, offset int64) // after each write
	fail  error                                   // of writes, which happen all the same
}

func (m *memory) ReadAt(b []byte, offset int64) (int, error) {
	m.Lock()
	defer m.Unlock()
	return copy(b, m.data[offset:]), nil
}

func (m *memory) WriteAt(b []byte, offset int64) (int, error) {
	m.Lock()
	defer m.Unlock()
	n := copy(m.data[offset:], b)
	if m.wrong != nil {
		m.wrong(m, b, offset)
	}
	return n, m.fail
}

func (m *memory) Sync() error { return nil }

// TestFindsWrongImages: a right image passes, every kind of wrong one does not.
func TestFindsWrongImages(t *testing.T) {
	old := map[int64][]byte{}
	n := 0
	for _, c := range []struct {
		name, want string
		wrong      func(m *memory, b []byte, offset int64)
	}{
		{"right", "", nil},
		{"a byte changes", "does not have the contents", func(m *memory, b []byte, offset int64) { m.data[offset+4000] ^= 1 }},
		{"a sector is torn", "does not have the contents", func(m *memory, b []byte, offset int64) { clear(m.data[offset+512 : offset+1024]) }},
		{"another block is hit", "does not have the contents", func(m *memory, b []byte, offset int64) {
			copy(m.data[(offset+4096)%int64(len(m.data)):], b)
		}},
		{"an old version comes back", "stale or lost", func(m *memory, b []byte, offset int64) {
			if n++; n > 500 {
				copy(m.data[offset:], old[offset])
			} else if n < 250 {
				old[offset] = append([]byte(nil), b...)
			}
		}},
		{"all is lost", "stale or lost", func(m *memory, b []byte, offset int64) {
			if n++; n%300 == 0 {
				clear(m.data)
			}
		}},
	} {
		m := &memory{data: make([]byte, 64*BlockBytes), wrong: c.wrong}
		content := New(7, int64(len(m.data)))
		r := content.Start(m, Options{Reads: 0.5, Pause: 10 * time.Microsecond, SyncEvery: 3})
		for end := time.Now().Add(5 * time.Second); r.Done() < 4000 && !r.stop.Load() && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		result, err := r.Stop()
		if err == nil {
			err = content.Verify(m)
		}
		switch {
		case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v", c.name, err)
		case result.Reads == 0 || result.Writes == 0:
			t.Errorf("%s: %+v", c.name, result)
		}
	}
}

// TestFailedWrites may have happened or not.
func TestFailedWrites(t *testing.T) {
	failed := errors.New("no space")
	m := &memory{data: make([]byte, 8*BlockBytes), fail: failed}
	content := New(1, int64(len(m.data)))
	r := content.Start(m, Options{Reads: 0.5, MayFail: func(err error) bool { return errors.Is(err, failed) }})
	time.Sleep(20 * time.Millisecond)
	if result, err := r.Stop(); err != nil || result.Failed == 0 {
		t.Errorf("%+v %v", result, err)
	}
	if err := content.Verify(m); err != nil {
		t.Error(err)
	}
	r = content.Start(m, Options{})
	if _, err := r.Stop(); err == nil && r.Done() > 0 {
		t.Error("an unexpected error was accepted")
	}
}

// stuck is an image whose operations do not end before the test does.
type stuck struct{ end chan struct{} }

func (s stuck) ReadAt(b []byte, _ int64) (int, error)  { <-s.end; return len(b), nil }
func (s stuck) WriteAt(b []byte, _ int64) (int, error) { <-s.end; return len(b), nil }
func (s stuck) Sync() error                            { return nil }

func TestStuck(t *testing.T) {
	s := stuck{make(chan struct{})}
	r := New(1, 16*BlockBytes).Start(s, Options{Bound: 30 * time.Millisecond})
	time.Sleep(5 * time.Millisecond)
	if _, err := r.Stop(); err == nil || !strings.Contains(err.Error(), "8 operations") {
		t.Error(err)
	}
	close(s.end)
}

func TestSlowest(t *testing.T) {
	r := Result{slow: []Slow{{5, 300, ""}, {1, 500, ""}, {3, 100, ""}}}
	if list := r.Slowest(200); len(list) != 2 || list[0].Began != 1 {
		t.Error(list)
	}
}
