package msgr

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/wire"
)

// Connected implements env.StreamHandler: we introduce ourselves, and send
// nothing else until the answer (wire.md §4).
func (c *Conn) Connected() {
	m := c.m
	c.state = connGreeting
	c.progress = m.now()
	c.heard()
	m.env.Clock.Arm(&c.timer, m.timeouts.Idle+m.timeouts.Ping)
	hello := wire.ConfigRequest{OSDNum: m.osd, CheckSequencing: true}
	text := hello.AppendJSON(nil)
	op := &Op{Payload: [][]byte{text}, Grow: growConfig, Done: c.introduced}
	(&wire.ShowConfig{JSONLen: uint64(len(text))}).Encode(&op.Packet)
	c.begin(op)
	c.transmit(op)
}

func growConfig(op *Op, bytes int) bool {
	if bytes > jsonBytesMax {
		return false
	}
	op.Body = [][]byte{make([]byte, bytes)}
	return true
}

// introduced handles the answer to SHOW_CONFIG.
func (c *Conn) introduced(op *Op) {
	if op.Lost {
		return // of a connection that is closed already
	}
	if err := c.checkPeer(op); err != nil {
		c.drop(err)
		return
	}
	m := c.m
	m.env.Clock.Disarm(&c.timer)
	c.state, c.known = connReady, true
	c.setPriority()
	m.log.info("connected", "peer", c)
	m.handler.Connected(c)
	c.pump()
}

// checkPeer tells what is wrong with the OSD that we have reached (§4.2).
func (c *Conn) checkPeer(op *Op) error {
	if op.Retval.Failed() {
		return fmt.Errorf("SHOW_CONFIG failed with %v", op.Retval)
	}
	var text []byte
	if op.BodyBytes > 0 {
		text = op.Body[0][:op.BodyBytes]
	}
	config, err := wire.ParseConfigReply(text)
	if err == nil {
		err = config.Check(c.osd)
	}
	if err == nil && c.m.store != nil {
		if err = config.CheckStore(*c.m.store); err == nil && !config.HasStoreParams() {
			c.m.log.warn("peer does not tell the parameters of its store", "peer", c)
		}
	}
	c.config = config
	return err
}

// timedOut ends a connection that does not get ready.
func (c *Conn) timedOut() {
	if c.state == connDialing {
		c.drop(fmt.Errorf("no connection within %v", c.m.timeouts.Connect))
		return
	}
	c.drop(errors.New("no answer to SHOW_CONFIG"))
}

// showConfig answers SHOW_CONFIG and takes over what the peer says of itself.
// From the next request on ids are checked, if it wants so.
func (c *Conn) showConfig(r *Request) {
	var text []byte
	if len(r.Body) > 0 {
		text = r.Body[0]
	}
	request := wire.ParseConfigRequest(text)
	if request.OSDNum != c.osd {
		c.osd = request.OSDNum
		c.m.log.info("peer has introduced itself", "peer", c)
	}
	c.setPriority()
	c.checkIDs, c.nextID = request.CheckSequencing, r.Packet.ID()+1
	reply := c.m.config(c, request)
	answer := reply.AppendJSON(nil)
	(&wire.StatusReply{Op: wire.OpShowConfig, Retval: wire.Retval(len(answer))}).Encode(&r.Reply)
	r.ReplyParts = append(r.ReplyParts[:0], answer)
	r.Finish()
}

// setPriority lets what goes to OSDs go first: they work for us, or for a
// client, while we do the rest.
func (c *Conn) setPriority() {
	s, ok := c.stream.(env.Prioritized)
	if !ok || c.m.osd == 0 {
		return
	}
	if c.osd != 0 {
		s.SetPriority(env.PriorityFirst)
	} else {
		s.SetPriority(env.PriorityNormal)
	}
}

// limitedLog writes at most logLinesMax lines per logWindow: what peers do must
// not fill the disk, nor keep the loop busy.
type limitedLog struct {
	env        *env.Env
	since      env.Instant
	lines      int
	suppressed int
}

const (
	logWindow   = 10 * time.Second
	logLinesMax = 50
)

func (l *limitedLog) allow() bool {
	if l.env.Log == nil {
		return false
	}
	now := l.env.Clock.Now()
	if now.Sub(l.since) >= logWindow {
		if l.suppressed > 0 {
			l.env.Log.Warn("messenger: more messages than are logged", "suppressed", l.suppressed)
		}
		l.since, l.lines, l.suppressed = now, 0, 0
	}
	if l.lines++; l.lines > logLinesMax {
		l.suppressed++
		return false
	}
	return true
}

func (l *limitedLog) info(text string, key string, c *Conn) {
	if l.allow() {
		l.env.Log.Info("messenger: "+text, key, c.String())
	}
}

func (l *limitedLog) warn(text string, key string, c *Conn) {
	if l.allow() {
		l.env.Log.Warn("messenger: "+text, key, c.String())
	}
}

// logDrop tells why a connection ends. Clients come and go: that is no warning.
func (m *Messenger) logDrop(c *Conn, reason error) {
	if !m.log.allow() {
		return
	}
	write := m.env.Log.Warn
	if m.closed || c.osd == 0 && strings.HasPrefix(reason.Error(), "connection lost: EOF") {
		write = m.env.Log.Info
	}
	text := "messenger: connection closed"
	if c.state != connReady {
		text = "messenger: cannot connect"
	}
	write(text, "peer", c.String(), "reason", reason.Error())
}
