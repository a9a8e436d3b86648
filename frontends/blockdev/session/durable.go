package session

import (
	"fmt"
	"time"

	"vitastor/internal/meta"
	"vitastor/internal/wire"
	"vitastor/libclient/client"
)

// durableRetry is the pause before OSDs that could not be reached are asked again.
const durableRetry = 50 * time.Millisecond

// MakeDurable makes durable what another client has written, who has died: the
// server of a device that this one takes over. The device's users will flush, and
// only OSDs know then that there is something: our client has not written
// anything. A signal ends the waiting for OSDs that run and cannot be reached;
// what was not durable in those that do not run any more is lost, as at any time.
func (s *Session) MakeDurable() error {
	var osds []meta.OSDNum
	err := s.Do(func(done func(error)) { osds = s.Client.View().OSDs(); done(nil) })
	for err == nil && len(osds) > 0 {
		if osds, err = s.syncOSDs(osds); err != nil || len(osds) == 0 {
			break
		}
		select {
		case <-time.After(durableRetry):
		case <-s.config.Stop:
			return ErrStopped
		}
	}
	return err
}

// syncOSDs sends SYNC to OSDs, and returns those that run and cannot be reached.
func (s *Session) syncOSDs(osds []meta.OSDNum) (unreached []meta.OSDNum, err error) {
	err = s.Do(func(done func(error)) {
		left := len(osds)
		var failed error
		for _, n := range osds {
			r := &client.Raw{OSD: n}
			(&wire.HeaderOnly{Op: wire.OpSync}).Encode(&r.Op.Packet)
			r.Done = func(r *client.Raw) {
				switch v := r.Op.Retval; {
				case v == wire.EPIPE:
					if s.Client.View().OSD(r.OSD) != nil {
						unreached = append(unreached, r.OSD)
					}
				case v.Failed():
					failed = fmt.Errorf("OSD %d cannot make durable what a former server has written: %w", r.OSD, v.Errno())
				}
				if left--; left == 0 {
					done(failed)
				}
			}
			s.Client.Request(r)
		}
	})
	return unreached, err
}
