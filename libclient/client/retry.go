package client

import (
	"syscall"
	"time"

	"vitastor/internal/env"
)

// waitReason says what a part waits for. Parts that wait are in one list and
// looked at again, in their order, whenever something changes that may matter
// to any of them: that is rare, and then it matters to most.
type waitReason uint8

const (
	waitNothing    waitReason = iota
	waitPG                    // to become active
	waitConnection            // to an OSD
	waitRetry                 // a pause, or any change
	waitTime                  // a pause: changes do not help
)

// eioRetryDefault is used for data that has to be written in spite of
// client_eio_retry_interval = 0.
const eioRetryDefault = time.Second

func (c *Client) waitForPG(p *part) {
	if p.io.flags&ioCAS != 0 {
		c.endPart(p, syscall.EINTR)
		return
	}
	now := c.env.Clock.Now()
	if p.since == 0 {
		p.since = now
	}
	until := env.Instant(0)
	if p.io.flags&ioWaitUp != 0 {
		until = p.since.Add(c.opts.WaitUpTimeout)
		if until <= now {
			c.endPart(p, syscall.ETIMEDOUT)
			return
		}
	}
	c.wait(p, waitPG, until)
}

func (c *Client) waitForConnection(p *part, o *osd) {
	p.to = o
	c.wait(p, waitConnection, 0)
}

func (c *Client) waitForRetry(p *part, d time.Duration) {
	c.wait(p, waitRetry, c.env.Clock.Now().Add(d))
}

func (c *Client) waitForTime(p *part, d time.Duration) {
	c.wait(p, waitTime, c.env.Clock.Now().Add(d))
}

func (c *Client) wait(p *part, why waitReason, again env.Instant) {
	p.why, p.again = why, again
	c.waiting.push(p)
	if again > 0 && !c.ended {
		c.armRetry(again)
	}
}

// armRetry makes sure that the timer is not later than at.
func (c *Client) armRetry(at env.Instant) {
	if !c.retry.Armed() || at < c.retryAt {
		c.retryAt = at
		c.env.Clock.Arm(&c.retry, at.Sub(c.env.Clock.Now()))
	}
}

// verdict says what to do with a part that waits.
type verdict uint8

const (
	goOn verdict = iota // waiting
	tryNow
	giveUp // EINTR
)

func tryIf(now bool) verdict {
	if now {
		return tryNow
	}
	return goOn
}

// retryDue tries parts whose time has come.
func (c *Client) retryDue() {
	now := c.env.Clock.Now()
	c.eachWaiting(func(p *part) verdict { return tryIf(p.again > 0 && p.again <= now) })
}

// kick looks at everything that waits, soon.
func (c *Client) kick() { c.env.Exec.Defer(&c.kickTask) }

func (c *Client) reroute() {
	now := c.env.Clock.Now()
	c.eachWaiting(func(p *part) verdict {
		x := p.io
		return tryIf(p.why != waitTime || p.again <= now || c.ended || x.err != 0 ||
			x.user != nil && x.user.cancelled || x.pool.gone || x.gen != x.pool.gen)
	})
}

// eachWaiting does with every waiting part what f says.
func (c *Client) eachWaiting(f func(p *part) verdict) {
	all := c.waiting
	c.waiting = partList{}
	for p := all.pop(); p != nil; p = all.pop() {
		switch f(p) {
		case goOn:
			c.wait(p, p.why, p.again)
		case tryNow:
			c.dispatch(p)
		case giveUp:
			c.endPart(p, syscall.EINTR)
		}
	}
}
