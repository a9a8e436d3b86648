package nbd

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"vitastor/frontends/blockdev"
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/libclient/client"
)

// images is the Catalogue of a cluster: chosen images, all of them, or a bare
// inode.
type images struct {
	env    *env.Env
	client *client.Client
	names  []string // in the order of the command line; the first is the default
	all    bool
	// A bare inode is used instead of a name.
	inode meta.Inode
	bytes uint64
}

// bareName is the export name of a bare inode.
const bareName = "inode"

// chosen reads which images are wanted.
func chosen(c *command) (*images, error) {
	i := &images{names: c.names("image"), all: c.flag("all")}
	bare := c.flag("pool") || c.flag("inode") || c.flag("size")
	switch {
	case bare && (len(i.names) > 0 || i.all):
		return nil, errors.New("use either --image, or --pool, --inode and --size")
	case bare:
		return i, i.setInode(c)
	case len(i.names) == 0 && !i.all:
		return nil, errors.New("which image? Use --image NAME (`vitastor-cli ls` lists them), or --pool, --inode and --size")
	}
	return i, nil
}

func (i *images) setInode(c *command) error {
	if !c.flag("pool") || !c.flag("inode") || !c.flag("size") {
		return errors.New("a bare inode needs all of --pool, --inode and --size")
	}
	pool, err := c.number("pool", 0)
	if err != nil {
		return err
	}
	number, err := c.number("inode", 0)
	if err != nil {
		return err
	}
	if i.bytes, err = c.number("size", 0); err != nil {
		return err
	}
	if pool == 0 || pool > uint64(meta.MaxPoolID) || number == 0 || number > meta.MaxInodeNumber || i.bytes == 0 {
		return fmt.Errorf("--pool %d --inode %d --size %d: pools are numbered from 1 to %d, inodes from 1 to %d, and the size is not 0",
			pool, number, i.bytes, uint64(meta.MaxPoolID), uint64(meta.MaxInodeNumber))
	}
	i.inode, i.names = meta.MakeInode(meta.PoolID(pool), number), []string{bareName}
	return nil
}

// Open implements Catalogue.
func (i *images) Open(name string) (blockdev.Disk, error) {
	if name == "" {
		if len(i.names) != 1 {
			return nil, errors.New("there is no default export here: give the name of an image")
		}
		name = i.names[0]
	}
	return i.open(name)
}

func (i *images) open(name string) (*blockdev.Image, error) {
	switch {
	case !i.all && !slices.Contains(i.names, name):
		return nil, fmt.Errorf("image %s is not served here: start the server with --image %s or --all", name, name)
	case i.inode != 0:
		return blockdev.OpenInode(i.env, i.client, i.inode, i.bytes)
	}
	disk, err := blockdev.OpenImage(i.env, i.client, name)
	if err == nil && disk.Info().SizeBytes == 0 {
		disk.Close()
		return nil, fmt.Errorf("image %s has size 0: `vitastor-cli modify --resize SIZE %s` makes it larger", name, name)
	}
	return disk, err
}

// List implements Catalogue.
func (i *images) List(f func(name, description string)) {
	if !i.all {
		for _, name := range i.names {
			f(name, "")
		}
		return
	}
	var names []string
	v := i.client.View()
	for _, id := range v.Inodes() {
		if seen := v.Inode(id); seen != nil && seen.Name != "" && !seen.Deleted {
			names = append(names, seen.Name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		description := ""
		if strings.Contains(name, "@") {
			description = "snapshot"
		}
		f(name, description)
	}
}

// check opens each image once, so that mistakes are told before clients come.
func (i *images) check() error {
	for _, name := range i.names {
		disk, err := i.open(name)
		if err != nil {
			return err
		}
		disk.Close()
	}
	return nil
}
