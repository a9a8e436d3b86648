package primary

import (
	"testing"

	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// TestDeletedStaysDeleted: an object that is deleted while an OSD is dead does
// not come back with it, neither as a whole nor as chunks that nobody can read,
// and in the end nothing of it is left anywhere.
func TestDeletedStaysDeleted(t *testing.T) {
	for _, c := range []struct {
		name   string
		scheme meta.Scheme
		parity int
		commit meta.CommitMode
		osds   int
	}{
		{"replicated", meta.Replicated, 0, meta.CommitAll, 3},
		{"replicated, lazy", meta.Replicated, 0, meta.CommitNone, 3},
		{"EC 2+1", meta.EC, 1, meta.CommitAll, 3},
		{"EC 2+1, lazy", meta.EC, 1, meta.CommitNone, 3},
		{"EC 2+2", meta.EC, 2, meta.CommitAll, 4},
		{"XOR", meta.XOR, 1, meta.CommitSmall, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 1, c.commit, c.osds)
			set := []meta.OSDNum{1, 2, 3, 4}[:c.osds]
			p := r.pool(1, c.scheme, c.parity, set...)
			u := r.user(1)
			object := r.pools[1].ObjectBytes()
			data := pattern(4096, 7)
			for i := range uint64(3) {
				u.write(1, i*object, data)
			}
			u.sync()
			dead := meta.OSDNum(c.osds)
			r.crash(dead)
			r.peer(p)
			for i := range uint64(2) {
				d := u.want(wire.OK, u.beginDelete(1, i*object, 0))
				var re wire.DeleteReply
				if re.Decode(&d.Reply); re.Flags != wire.DeleteReportsDead {
					t.Errorf("%+v: it will not come back", re)
				}
				u.read(1, i*object, make([]byte, 4096))
			}
			u.want(wire.OK, u.beginDelete(1, 9*object, 0)) // never existed
			u.write(1, object+4096, data)                  // written again
			u.sync()
			r.restart(dead)
			r.peer(p)
			check := func() {
				t.Helper()
				u.read(1, 0, make([]byte, 8192))
				u.read(1, object, make([]byte, 4096))
				u.read(1, object+4096, data)
				u.read(1, 2*object, data)
			}
			check()
			r.recoverAll(p)
			u.sync()
			check()
			r.atRest(p)
			for _, osd := range set {
				for role := range meta.Role(c.osds) {
					if at := r.readChunk(osd, meta.ObjectID{Inode: inode(1)}.WithRole(role)); at != nil {
						t.Errorf("OSD %d has role %d of the deleted object: %+v", osd, role, at)
					}
				}
			}
			r.peer(p)
			check()
		})
	}
}
