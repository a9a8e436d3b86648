package crashtest

import (
	"reflect"
	"testing"
)

func newNaiveHarness(m Mistakes) func() *Harness {
	return func() *Harness {
		return &Harness{Open: OpenNaive(m), NoLayout: true, ExtraBytes: NaiveExtraBytes}
	}
}

// TestNaivePasses: the harness accepts a store that is right.
func TestNaivePasses(t *testing.T) {
	c := &campaign{t: t, seed: seedFlag(t, 1), fresh: newNaiveHarness(Mistakes{}), enough: func(s *Stats) bool { return s.Points >= 3000 }}
	c.run()
}

// TestMistakesAreFound: each single mistake is noticed within a few cases.
func TestMistakesAreFound(t *testing.T) {
	fields := reflect.TypeFor[Mistakes]()
	for i := range fields.NumField() {
		t.Run(fields.Field(i).Name, func(t *testing.T) {
			var m Mistakes
			reflect.ValueOf(&m).Elem().Field(i).SetBool(true)
			for number := range uint64(300) {
				// Of this seed a few cases are enough for every mistake.
				if err := newNaiveHarness(m)().Run(NewCase(14, number)); err != nil {
					t.Logf("found in case %d: %.300v", number, err)
					return
				}
			}
			t.Errorf("not noticed in 300 cases")
		})
	}
}
