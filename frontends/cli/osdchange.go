package cli

import (
	"fmt"
	"strconv"
	"syscall"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

func (r *run) modifyOSD() (result, error) {
	n, ok := parseNumber(r.arg(0))
	switch {
	case !ok || n == 0:
		return result{}, fail(syscall.EINVAL, "OSD number is missing")
	case !r.given("tags") && !r.given("reweight") && !r.given("noout"):
		return result{}, fail(syscall.EINVAL, "Nothing to update")
	}
	osd := meta.OSDNum(n)
	reweight := 1.0
	if r.given("reweight") {
		var err error
		switch reweight, err = strconv.ParseFloat(r.text("reweight"), 64); {
		case err != nil || reweight < 0 || reweight != reweight:
			return result{}, fail(syscall.EINVAL, "Reweight must be a number from 0 to 1, but it is %s", r.text("reweight"))
		case reweight > 1:
			return result{}, fail(syscall.EINVAL, "Reweight can't be larger than 1")
		}
	}
	c, err := r.connect()
	if err != nil {
		return result{}, err
	}
	key := c.keys.OSDConfig(osd)
	got, _, err := c.read(getOp(c.keys.OSDStats(osd)), getOp(key))
	if err != nil {
		return result{}, err
	}
	if first(got[0]) == nil && !r.flag("force") {
		return result{}, fail(syscall.ENOENT, "OSD %d does not exist. Use --force to set configuration anyway", osd)
	}
	var stored []byte
	seen := int64(0)
	if kv := first(got[1]); kv != nil {
		stored, seen = kv.Value, kv.ModRevision
	}
	config, err := schema.DecodeOSDConfig(key, stored)
	if err != nil {
		r.note("warning: %v: it is corrected", err)
	}
	if r.given("reweight") {
		config.Reweight = reweight
	}
	if r.given("tags") {
		config.Tags = list(r.text("tags"))
	}
	if r.given("noout") {
		config.NoOut = r.flag("noout")
	}
	value := config.Encode()
	t := c.keys.PutOSDConfig(osd, value, seen)
	answer, err := c.txn(&t)
	if err != nil {
		return result{}, err
	}
	if !answer.Succeeded {
		return result{}, fail(syscall.EAGAIN, "Configuration of OSD %d was modified by someone else, please repeat your request", osd)
	}
	data := decodeAny(value)
	if data == nil {
		data = object{}
	}
	return result{text: fmt.Sprintf("OSD %d configuration modified", osd), data: data}, nil
}

func (r *run) allocOSD() (result, error) {
	c, err := r.connect()
	if err != nil {
		return result{}, err
	}
	next := meta.OSDNum(1)
	for range attemptsMax {
		t := c.keys.ReserveOSD(next)
		answer, err := c.txn(&t)
		if err != nil {
			return result{}, err
		}
		if answer.Succeeded {
			return result{text: fmt.Sprint(next), data: next}, nil
		}
		used := map[meta.OSDNum]bool{}
		for _, kv := range answer.Responses[0].KVs {
			if key, ok := c.keys.Parse(kv.Key); ok {
				used[key.OSD] = true
			}
		}
		for next = 1; used[next]; next++ {
		}
	}
	return result{}, fail(syscall.EAGAIN, "Others keep reserving OSD numbers: try again")
}
