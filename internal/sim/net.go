package sim

type NetConfig struct{}
type KVConfig struct{}
type Network struct{}
type host struct{}
type stream struct{}

func newNetwork(*World, NetConfig) *Network { return &Network{} }
func newHost(*Network, *Node) *host         { return &host{} }
func (h *host) processDied()                {}
func (h *host) powerLost()                  {}
func (p *process) flushStreams() bool       { return false }
