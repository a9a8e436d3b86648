package csi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Attachment is an image that is a block device of this host.
type Attachment struct {
	Method     string // of the Attacher
	Device     string // path, such as /dev/ublkb0
	ConfigPath string
	Image      string
	ReadOnly   bool
	// Dead: the process that serves the device has died. I/O waits, or fails.
	Dead bool
	// ID is the name of a VDUSE device; see deviceID.
	ID string
	// Foreign: the device was made by the reference's driver, and its process
	// cannot be replaced by ours.
	Foreign bool
	// PIDFile is of the serving process, "" if there is none.
	PIDFile string
}

// is tells whether it is of a volume.
func (a *Attachment) is(h handle) bool {
	if strings.HasPrefix(a.ID, idMark) {
		return a.ID == deviceID(h.ConfigPath, h.image())
	}
	return a.Image == h.image() && a.ConfigPath == h.ConfigPath
}

// idMark begins names that we give to VDUSE devices.
const idMark = "csi-"

// deviceID is the name of the VDUSE device of an image: always the same, so that
// it cannot be attached twice, and different for images of two clusters that
// have the same name.
func deviceID(configPath, image string) string {
	sum := sha256.Sum256([]byte(configPath + "\x00" + image))
	return idMark + hex.EncodeToString(sum[:12])
}

// Attacher is one way to make block devices of images.
type Attacher interface {
	// Method is "vduse", "ublk" or "nbd".
	Method() string
	// Usable tells why this host cannot attach so; nil = it can.
	Usable(ctx context.Context) error
	// Attach makes a device and returns it with its path.
	Attach(ctx context.Context, want Attachment) (Attachment, error)
	// List finds all images that are attached so; known is what we remember of
	// them. What is known but not found is not attached any more.
	List(ctx context.Context, known []Attachment) ([]Attachment, error)
	// Revive starts a process for a device whose process has died.
	Revive(ctx context.Context, dead Attachment) error
	Detach(ctx context.Context, a Attachment) error
	// Max is how many devices there can be; 0 = any number.
	Max() int64
}

// choose finds the first usable one, or that of a method.
func choose(ctx context.Context, all []Attacher, method string) (Attacher, error) {
	var why []string
	for _, a := range all {
		if method != "" && method != a.Method() {
			continue
		}
		err := a.Usable(ctx)
		if err == nil {
			return a, nil
		}
		why = append(why, fmt.Sprintf("%s: %v", a.Method(), err))
	}
	if len(why) == 0 {
		return nil, fmt.Errorf("there is no way %q to attach images: use vduse, ublk or nbd", method)
	}
	return nil, fmt.Errorf("this host cannot attach images: %s", strings.Join(why, "; "))
}
