package pinned

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unsafe"

	"vitastor/internal/invariant"
)

// violated runs f and returns the text of the invariant it breaks.
func violated(t *testing.T, f func()) (text string) {
	t.Helper()
	defer func() {
		v, ok := recover().(invariant.Violation)
		if !ok {
			t.Fatal("no invariant was violated")
		}
		text = v.Text
	}()
	f()
	return ""
}

type record struct {
	key   [24]byte
	value [2]uint32
}

func TestMakeGrowFree(t *testing.T) {
	before := Bytes()
	for _, n := range []int{1, 100, 1000, 100_000, 200_000, 90_000, 5, 300_000} {
		s, err := Make[record](n)
		if err != nil {
			t.Fatal(err)
		}
		align := uintptr(pageBytes)
		if n*int(unsafe.Sizeof(s[0])) >= hugePageBytes {
			align = hugePageBytes
		}
		if len(s) != n || cap(s) != n || uintptr(unsafe.Pointer(&s[0]))%align != 0 {
			t.Fatalf("n %d: len %d cap %d at %p", n, len(s), cap(s), &s[0])
		}
		for i := range s {
			if s[i] != (record{}) {
				t.Fatal("not zeroed")
			}
			s[i].value[0] = uint32(i)
		}
		s, err = Grow(s, 3*n)
		if err != nil || len(s) != 3*n {
			t.Fatal(err, len(s))
		}
		for i := range s {
			if want := uint32(i); i < n && s[i].value[0] != want || i >= n && s[i] != (record{}) {
				t.Fatalf("after Grow: element %d = %v", i, s[i])
			}
		}
		Free(s)
	}
	if Bytes() != before {
		t.Errorf("%d bytes leaked", Bytes()-before)
	}
}

func TestGrowSmallerForgets(t *testing.T) {
	s, err := Make[uint64](1000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range s {
		s[i] = ^uint64(0)
	}
	for _, n := range []int{900, 3, 1000} {
		if s, err = Grow(s, n); err != nil {
			t.Fatal(err)
		}
	}
	for i, v := range s {
		if (i < 3) != (v != 0) {
			t.Fatalf("element %d = %x", i, v)
		}
	}
	if s, err = Grow(s, 0); s != nil || err != nil {
		t.Fatal("Grow to nothing", s, err)
	}
}

func TestMakeOfNothingAndOfTooMuch(t *testing.T) {
	if s, err := Make[int](0); s != nil || err != nil {
		t.Error(s, err)
	}
	Free[int](nil)
	if _, err := Make[int](-1); err == nil {
		t.Error("negative size accepted")
	}
	if _, err := Make[[1 << 20]byte](1 << 60); err == nil {
		t.Error("absurd size accepted")
	}
	if _, err := Make[byte](1 << 47); err == nil || !strings.Contains(err.Error(), "cannot map") {
		t.Errorf("128 TiB: %v", err)
	}
}

func TestMisuseStops(t *testing.T) {
	s, _ := Make[int](10)
	defer func() { violated(t, func() { Free(s) }) }() // twice
	defer Free(s)
	heap := make([]int, 10)
	for name, f := range map[string]func(){
		"pointer":    func() { Make[*int](1) },
		"string":     func() { Make[struct{ s [2]string }](1) },
		"slice":      func() { Make[[]byte](1) },
		"map":        func() { Make[map[int]int](1) },
		"func":       func() { Make[func()](1) },
		"interface":  func() { Make[any](1) },
		"heap":       func() { Free(heap) },
		"middle":     func() { Free(s[1:]) },
		"grow heap":  func() { Grow(heap, 20) },
		"pool large": func() { pool(t, 1).Get(MaxBufferBytes + 1) },
		"pool zero":  func() { pool(t, 1).Get(0) },
	} {
		t.Run(name, func(t *testing.T) { t.Log(violated(t, f)) })
	}
}

func TestTable(t *testing.T) {
	var table Table[record]
	var first *record
	const n = 200_000 // several segments
	for i := range n {
		at, err := table.Append()
		if err != nil || at != i {
			t.Fatal(at, err)
		}
		if *table.At(i) != (record{}) {
			t.Fatal("not zeroed")
		}
		table.At(i).value[1] = uint32(i)
		if i == 0 {
			first = table.At(0)
		}
	}
	if table.At(0) != first || table.Len() != n || len(table.segments) < 3 {
		t.Fatal("elements moved, or segments are too large")
	}
	for i := range n {
		if table.At(i).value[1] != uint32(i) {
			t.Fatal("lost", i)
		}
	}
	if err := table.Grow(5); err != nil || table.Len() != n {
		t.Fatal("Grow to less", err, table.Len())
	}
	table.Free()
	if table.Len() != 0 {
		t.Fatal("not empty after Free")
	}
	var big Table[[3 << 20]byte] // one element per segment
	if err := big.Grow(2); err != nil || big.At(1)[5] != 0 {
		t.Fatal(err)
	}
	big.Free()
}

func pool(t testing.TB, mib int) *Pool {
	p, err := NewPool("test", mib<<20)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPoolAgainstModel(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	p := pool(t, 6)
	type buf struct {
		b    []byte
		mark byte
	}
	var live []buf
	used, refused := int64(0), 0
	for step := range 60_000 {
		if r.IntN(100) < 52 {
			n := 1 + r.IntN(pageBytes<<r.IntN(classCount))
			b, ok := p.Get(n)
			if !ok {
				refused++
				continue
			}
			if len(b) != n || uintptr(unsafe.Pointer(&b[0]))%pageBytes != 0 || cap(b) >= 2*max(n, pageBytes) {
				t.Fatalf("Get(%d): len %d cap %d at %p", n, len(b), cap(b), &b[0])
			}
			mark := byte(step)
			b = b[:cap(b)]
			b[0], b[len(b)/2], b[len(b)-1] = mark, mark, mark
			used += int64(cap(b))
			live = append(live, buf{b, mark})
		} else if len(live) > 0 {
			i := r.IntN(len(live))
			x := live[i]
			if n := len(x.b); x.b[0] != x.mark || x.b[n/2] != x.mark || x.b[n-1] != x.mark {
				t.Fatal("two live buffers overlap")
			}
			live[i] = live[len(live)-1]
			live = live[:len(live)-1]
			used -= int64(cap(x.b))
			p.Put(x.b)
		}
		if s := p.Stats(); s.UsedBytes != used || s.UsedBytes > s.LimitBytes || s.PeakBytes < used {
			t.Fatalf("stats %+v, used %d", s, used)
		}
	}
	if refused == 0 || p.Stats().Refusals != uint64(refused) {
		t.Errorf("%d refusals, stats %+v", refused, p.Stats())
	}
	for _, x := range live {
		p.Put(x.b)
	}
	for range 6 { // nothing is lost to fragmentation once everything is back
		if _, ok := p.Get(MaxBufferBytes); !ok {
			t.Fatal("an empty pool refuses")
		}
	}
}

func TestPoolLimitIsExact(t *testing.T) {
	p := pool(t, 1)
	var all [][]byte
	for range spanPages {
		b, ok := p.Get(1)
		if !ok {
			t.Fatal("refused within the limit")
		}
		all = append(all, b)
	}
	if _, ok := p.Get(1); ok {
		t.Fatal("more than the limit")
	}
	p.Put(all[7])
	if b, ok := p.Get(pageBytes); !ok || &b[0] != &all[7][0] {
		t.Fatal("returned buffer is not reused")
	}
	violated(t, p.Free)
	for _, b := range all {
		p.Put(b)
	}
	p.Free()
}

func TestPoolRefusesForeignBuffers(t *testing.T) {
	p := pool(t, 1)
	defer p.Free()
	b, _ := p.Get(64 << 10)
	for name, wrong := range map[string][]byte{
		"nil": nil, "heap": make([]byte, 5), "middle": b[1:], "next page": b[pageBytes:],
	} {
		t.Run(name, func(t *testing.T) { t.Log(violated(t, func() { p.Put(wrong) })) })
	}
	p.Put(b[:1])
	t.Log(violated(t, func() { p.Put(b) }))
}

func TestPoolAllocatesNothing(t *testing.T) {
	p := pool(t, 2)
	defer p.Free()
	if n := testing.AllocsPerRun(100, func() {
		a, _ := p.Get(4096)
		b, _ := p.Get(128 << 10)
		p.Put(a)
		p.Put(b)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPool(b *testing.B) {
	p := pool(b, 2)
	for b.Loop() {
		x, _ := p.Get(4096)
		p.Put(x)
	}
}

func BenchmarkTableAt(b *testing.B) {
	var t Table[record]
	if err := t.Grow(1 << 20); err != nil {
		b.Fatal(err)
	}
	i, sum := 0, uint32(0)
	for b.Loop() {
		i = (i*5 + 1) & (1<<20 - 1)
		sum += t.At(i).value[0]
	}
	_ = sum
}
