package hosts

import (
	"path/filepath"
	"strings"
	"testing"

	"vitastor/internal/meta"
)

func TestFio(t *testing.T) {
	c := setUp(t)
	engine := filepath.Join(rig.lib, "libfio_vitastor.so")
	job := func(more ...string) string {
		args := []string{"--name=t", "--ioengine=" + engine, "--conf=" + c.ConfigFile(), "--bs=4k", "--direct=1", "--verify_state_save=0"}
		return run(t, "fio", append(args, more...)...)
	}
	for n, mode := range []string{"--thread", "--no_io_uring=1", "--numjobs=3 --offset_increment=16m --size=16m"} {
		name := newImage(t, meta.PoolID(n%2+1), 64<<20)
		args := append(strings.Fields(mode), "--image="+name, "--iodepth=16", "--verify=crc32c", "--fsync=32")
		job(append(args, "--rw=randwrite", "--io_size=8m")...)
		job(append(args, "--rw=randrw", "--io_size=8m")...)
		job("--thread", "--image="+name, "--rw=randtrim", "--bs=128k", "--iodepth=4", "--io_size=8m")
	}
	mirror := filepath.Join(t.TempDir(), "mirror")
	name := newImage(t, 1, 8<<20)
	job("--image="+name, "--rw=randwrite", "--mirror_file="+mirror, "--size=8m", "--iodepth=8", "--fsync=8")
	run(t, "truncate", "-s", "8M", mirror)
	identical(t, mirror, disk(name))
	job("--pool=1", "--inode=5000", "--size=4m", "--rw=randrw", "--verify=crc32c")

	base := []string{"--name=t", "--ioengine=" + engine, "--conf=" + c.ConfigFile(), "--rw=write"}
	fail(t, "there is no image nothing", "fio", append(base, "--image=nothing")...)
	fail(t, "set image", "fio", base...)
	fail(t, "set size", "fio", append(base, "--pool=1", "--inode=5001")...)
	fail(t, "there is no pool 77", "fio", append(base, "--pool=77", "--inode=1", "--size=1m")...)
}
