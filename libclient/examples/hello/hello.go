package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"vitastor/libclient/image"
)

// options are what the command line says.
type options struct {
	config      image.Config
	image, pool string
}

// hello is the whole example.
func hello(ctx context.Context, o options) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cluster, err := image.Dial(ctx, o.config)
	if err != nil {
		return err
	}
	defer cluster.Close()

	img, err := cluster.Open(o.image)
	if errors.Is(err, syscall.ENOENT) {
		if err = cluster.Create(ctx, o.image, 64<<20, o.pool); err == nil {
			img, err = cluster.Open(o.image)
		}
	}
	if err != nil {
		return err
	}
	defer img.Close()

	size, err := img.Size()
	if err != nil {
		return err
	}
	greeting := []byte("hello, world of blocks\n")
	if _, err := img.WriteContext(ctx, greeting, size/2+7); err != nil {
		return err
	}
	if err := img.SyncContext(ctx); err != nil {
		return err
	}
	buf := make([]byte, len(greeting))
	if _, err := img.ReadContext(ctx, buf, size/2+7); err != nil {
		return err
	}
	if !bytes.Equal(buf, greeting) {
		return fmt.Errorf("image %s returned %q instead of %q", o.image, buf, greeting)
	}
	fmt.Printf("%s (%d MiB) says: %s", o.image, size>>20, buf)
	return nil
}
