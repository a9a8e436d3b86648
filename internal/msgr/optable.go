package msgr

// opTable finds the Op that a reply belongs to: open addressing with linear
// probing by the id itself, at most half full. Ids in flight are nearly
// consecutive, so collisions are rare however long a slow request stays.
type opTable struct {
	slots []opSlot // length a power of two, or empty
	count int
}

type opSlot struct {
	id uint64
	op *Op // nil = free
}

const opTableMin = 64

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

// get returns nil if id is not in the table.
func (t *opTable) get(id uint64) *Op {
	if i, ok := t.find(id); ok {
		return t.slots[i].op
	}
	return nil
}

// remove takes id out, and moves later entries of the run so that no search
// meets the hole before them.
func (t *opTable) remove(id uint64) {
	hole, ok := t.find(id)
	if !ok {
		return
	}
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

func (t *opTable) find(id uint64) (uint64, bool) {
	if t.count == 0 {
		return 0, false
	}
	for i := t.home(id); t.slots[i].op != nil; i = t.next(i) {
		if t.slots[i].id == id {
			return i, true
		}
	}
	return 0, false
}

func (t *opTable) grow() {
	old := t.slots
	t.slots = make([]opSlot, max(opTableMin, 2*len(old)))
	t.count = 0
	for _, s := range old {
		if s.op != nil {
			t.put(s.id, s.op)
		}
	}
}

func (t *opTable) home(id uint64) uint64 { return id & uint64(len(t.slots)-1) }
func (t *opTable) next(i uint64) uint64  { return (i + 1) & uint64(len(t.slots)-1) }
