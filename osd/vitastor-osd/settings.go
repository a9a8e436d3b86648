package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"

	"vitastor/internal/schema/option"
	"vitastor/osd/config"
	"vitastor/osd/daemon"
)

const flagVersion = "version"

// tool is the command line.
var tool = option.Tool{
	Name:      "vitastor-osd",
	Summary:   "Serves one disk of a Vitastor cluster. All parameters of the disk are in the superblock that vitastor-disk has written.",
	Component: option.OSD,
	Flags:     []option.Flag{{Name: flagVersion, Doc: "Print the version and exit."}},
}

type command = option.Command

// settings reads the file, and merges it with the command line for what is
// needed before etcd.
func settings(c *command, readFile func(string) ([]byte, error), log *slog.Logger) (o daemon.Options, local *config.Config, err error) {
	o.CommandLine = c.Options
	if o.Facts.Hostname, err = os.Hostname(); err != nil {
		return o, nil, fmt.Errorf("host name: %w", err)
	}
	l := config.Loader{Log: log}
	l.Facts, l.CommandLine = o.Facts, c.Options
	if local, err = l.Local(); err != nil {
		return o, nil, err
	}
	path := local.Common.ConfigPath
	data, err := readFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist): // the same as an empty one
		data = nil
	case err != nil:
		log.Warn("configuration file is treated as empty", "err", err)
		data = nil
	}
	var problem *option.Problem
	if o.File, problem = option.ReadLayer(option.OSD, option.File, path, data); problem != nil {
		log.Warn(problem.Error())
	}
	l.File = o.File
	if local, err = l.Local(); err != nil {
		return o, nil, err
	}
	o.Interfaces, err = interfaces()
	return o, local, err
}

// interfaces are the addresses of this host that are up and running.
func interfaces() (list []config.Interface, err error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	const usable = net.FlagUp | net.FlagRunning
	for _, i := range all {
		addrs, err := i.Addrs()
		if i.Flags&usable != usable || err != nil {
			continue
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
				list = append(list, config.Interface{Addr: p.Addr().Unmap(), Loopback: i.Flags&net.FlagLoopback != 0})
			}
		}
	}
	return list, nil
}
