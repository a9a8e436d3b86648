package nbd

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"vitastor/frontends/blockdev"
	"vitastor/frontends/blockdev/session"
)

// images is the Catalogue of a cluster: chosen images, all of them, or a bare
// inode.
type images struct {
	cluster *session.Session
	names   []string // in the order of the command line; the first is the default
	all     bool
	bare    session.Target // its Inode, if not 0, is used instead of a name
}

// bareName is the export name of a bare inode.
const bareName = "inode"

// chosen reads which images are wanted.
func chosen(c *command) (*images, error) {
	i := &images{names: c.Names("image"), all: c.Given("all")}
	bare := c.Given("pool") || c.Given("inode") || c.Given("size")
	switch {
	case bare && (len(i.names) > 0 || i.all):
		return nil, errors.New("use either --image, or --pool, --inode and --size")
	case bare:
		var err error
		i.bare, err = session.TargetOf(c.Command)
		i.names = []string{bareName}
		return i, err
	case len(i.names) == 0 && !i.all:
		return nil, errors.New("which image? Use --image NAME (`vitastor-cli ls` lists them), or --pool, --inode and --size")
	}
	return i, nil
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
	case i.bare.Inode != 0:
		return i.cluster.Open(i.bare)
	}
	return i.cluster.Open(session.Target{Image: name})
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
	v := i.cluster.Client.View()
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
