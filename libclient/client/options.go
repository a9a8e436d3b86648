package client

import (
	"vitastor/internal/clusterview"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
)

// mergeOptions makes the parameters in use; global is config/global.
func (c *Client) mergeOptions(global *schema.Object) error {
	layers := append([]option.Layer(nil), c.config.Layers...)
	if global != nil {
		layers = append(layers, option.Layer{Source: option.Global, Where: c.keys.Global(), Values: *global})
	}
	set, err := option.Merge(option.Client, c.config.Facts, layers...)
	if err != nil {
		return err
	}
	opts, _ := set.Client() // the only thing required, etcd_address, was used by whoever made env.KV
	for _, w := range set.Warnings {
		c.log.Warn("client parameter", "err", w)
	}
	c.set, c.opts = set, opts
	return nil
}

// reconfigure applies config/global, at start and when it changes. What needs a
// restart of the client keeps its value in use until then.
func (c *Client) reconfigure() {
	if err := c.mergeOptions(c.view.Global()); err != nil {
		c.log.Warn("parameters in etcd are not applied", "err", err)
		return
	}
	c.msgr.SetTimeouts(c.timeouts())
	c.msgr.SetNetworks(c.opts.Network.Public)
	c.view.SetTiming(c.timing())
	c.paths.host = c.opts.HostName
	c.kick()
}

// Options are the parameters in use.
func (c *Client) Options() *option.ClientConfig { return &c.opts }

func (c *Client) timeouts() msgr.Timeouts {
	n := &c.opts.Network
	return msgr.Timeouts{Connect: n.PeerConnectTimeout, ConnectInterval: n.PeerConnectInterval,
		Idle: n.OSDIdleTimeout, Ping: n.OSDPingTimeout}
}

func (c *Client) timing() clusterview.Timing {
	return clusterview.Timing{Load: c.opts.Network.EtcdSlowTimeout,
		KeepAlive: c.opts.Common.EtcdWatchKeepaliveInterval, Reload: c.opts.Network.EtcdMinReloadInterval}
}

// writebackOn tells whether writes are acknowledged before they are sent.
func (c *Client) writebackOn() bool { return c.opts.EnableWriteback && c.opts.WritebackAllowed }
