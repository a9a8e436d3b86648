// Command hello writes a greeting into an image, reads it back and prints it:
// the smallest program that uses a cluster.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
)

func main() {
	var o options
	flag.StringVar(&o.config.EtcdAddress, "etcd_address", "", "addresses of etcd, separated by commas (default: from the configuration file)")
	flag.StringVar(&o.config.ConfigPath, "config_path", "", "configuration file (default /etc/vitastor/vitastor.conf)")
	flag.StringVar(&o.image, "image", "testimg", "image to use; it is created if there is none")
	flag.StringVar(&o.pool, "pool", "", "pool for a new image (default: the only one)")
	flag.Parse()
	if err := hello(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "hello:", err)
		os.Exit(1)
	}
}
