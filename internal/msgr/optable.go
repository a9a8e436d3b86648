package msgr

// opTable finds the Op that a reply belongs to: open addressing with linear
// probing, at most half full. Ids in flight are nearly consecutive; multiplied by
// the golden ratio they are spread evenly, so searches end at once however many
// there are, and however long a slow request stays.
type opTable struct {
	slots []opSlot // length a power of two, or empty
	shift uint     // 64 - log2(len(slots))
	count int
}

type opSlot struct {
	id uint64
	op *Op // nil = free
}

const (
	opTableBitsMin = 6
	goldenRatio    = 0x9e3779b97f4a7c15
)

func (t *opTable) put(id uint64, op *Op) {
	if 2*(t.count+1) > len(t.slots) {
		t.grow()
	}
	i := t.home(id)
	for t.slots[i].op != nil {
		i = t.next(i)
	}
	t.slots[i] = opSlot{id, op}
	t.count++
}

// get returns the Op and its slot, for remove; nil if id is not in the table.
func (t *opTable) get(id uint64) (*Op, uint64) {
	if t.count == 0 {
		return nil, 0
	}
	i := t.home(id)
	for t.slots[i].op != nil && t.slots[i].id != id {
		i = t.next(i)
	}
	return t.slots[i].op, i
}

// remove empties a slot that is in use, and moves later entries of the run so
// that no search meets the hole before them.
func (t *opTable) remove(hole uint64) {
	t.count--
	mask := uint64(len(t.slots) - 1)
	for i := t.next(hole); t.slots[i].op != nil; i = t.next(i) {
		if (i-t.home(t.slots[i].id))&mask >= (i-hole)&mask {
			t.slots[hole] = t.slots[i]
			hole = i
		}
	}
	t.slots[hole] = opSlot{}
}

func (t *opTable) grow() {
	old := t.slots
	bits := uint(opTableBitsMin)
	if len(old) > 0 {
		bits = 65 - t.shift // one more than before
	}
	t.slots, t.shift, t.count = make([]opSlot, 1<<bits), 64-bits, 0
	for _, s := range old {
		if s.op != nil {
			t.put(s.id, s.op)
		}
	}
}

func (t *opTable) home(id uint64) uint64 { return id * goldenRatio >> t.shift }
func (t *opTable) next(i uint64) uint64  { return (i + 1) & uint64(len(t.slots)-1) }
