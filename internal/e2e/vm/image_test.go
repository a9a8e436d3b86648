package vm

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"vitastor/internal/e2e/machine"
)

// fakeKernel has the header of a kernel with 4 sectors of real-mode code.
func fakeKernel(bytes int) []byte {
	k := make([]byte, bytes)
	k[0x1f1] = 3
	copy(k[0x202:], "HdrS")
	for i := 4 * sectorBytes; i < bytes; i++ {
		k[i] = byte(i * 7)
	}
	return k
}

func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestLayout follows the table of the boot sector: what it would load is the
// kernel, and the header says where the rest is.
func TestLayout(t *testing.T) {
	need(t, machine.Sbin("mke2fs"), "e2fsprogs", "as", "binutils", "ld", "binutils")
	kernel := fakeKernel(3<<20 + 100)
	busybox := []byte("#!/nothing")
	g := Guest{Kernel: write(t, "vmlinuz", kernel), Busybox: write(t, "busybox", busybox), Modules: []machine.Module{{Name: "a", Data: []byte("module")}}}
	file := filepath.Join(t.TempDir(), "disk.raw")
	if err := BuildDisk(file, g, Disk{Bytes: 64 << 20, Files: map[string][]byte{"data/x": {1, 2, 3}}}); err != nil {
		t.Fatal(err)
	}
	disk, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(disk) != 64<<20 || disk[510] != 0x55 || disk[511] != 0xaa {
		t.Fatalf("%d bytes, no boot sector", len(disk))
	}
	memory := make([]byte, 256<<20)
	for e := disk[tableAt:]; binary.LittleEndian.Uint16(e[8:]) != 0; e = e[10:] {
		from := int(binary.LittleEndian.Uint32(e)) * sectorBytes
		copy(memory[binary.LittleEndian.Uint32(e[4:]):], disk[from:][:int(binary.LittleEndian.Uint16(e[8:]))*chunkBytes])
	}
	if !bytes.HasPrefix(memory[kernelAddress:], kernel[4*sectorBytes:]) {
		t.Error("the kernel is not loaded")
	}
	setup := memory[setupAddress:]
	line := memory[binary.LittleEndian.Uint32(setup[0x228:]):]
	if !strings.HasPrefix(string(line[:200]), "console=ttyS0") {
		t.Errorf("the command line is %q", line[:20])
	}
	at, n := binary.LittleEndian.Uint32(setup[0x218:]), binary.LittleEndian.Uint32(setup[0x21c:])
	files := unpack(t, memory[at:at+n])
	if !bytes.Equal(files["bin/busybox"], busybox) || !bytes.Equal(files["init"], initramfsInit) || string(files["modules/00-a.ko"]) != "module" {
		t.Errorf("the initramfs has other files")
	}
	if err := command(t.TempDir(), machine.Sbin("e2fsck"), "-fn", write(t, "ext4", disk[PartitionAt:])); err != nil {
		t.Error(err)
	}
}

// unpack reads a cpio archive as the kernel does.
func unpack(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	r := bytes.NewReader(data)
	take := func(n int) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatalf("the archive ends after %d files: %v", len(files), err)
		}
		for (len(data)-r.Len())%4 != 0 && r.Len() > 0 {
			r.ReadByte()
		}
		return b
	}
	for {
		head := make([]byte, 110) // is padded together with the name
		if _, err := io.ReadFull(r, head); err != nil || string(head[:6]) != "070701" {
			t.Fatalf("header %q: %v", head, err)
		}
		number := func(i int) int {
			n, err := strconv.ParseUint(string(head[6+8*i:][:8]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		name := strings.TrimSuffix(string(take(number(11))), "\x00")
		if name == "TRAILER!!!" {
			return files
		}
		files[name] = take(number(6))
	}
}

func TestBadKernel(t *testing.T) {
	huge := fakeKernel(1 << 20)
	huge[0x1f1] = 200
	for want, kernel := range map[string][]byte{
		"is no Linux kernel":      []byte("MZ"),
		"real-mode part":          huge,
		"are too large":           fakeKernel(PartitionAt),
		"no such file":            nil,
		"is no Linux kernel (bzI": make([]byte, 1<<16),
	} {
		path := filepath.Join(t.TempDir(), "missing")
		if kernel != nil {
			path = write(t, "vmlinuz", kernel)
		}
		if _, err := load(path, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v instead of %q", err, want)
		}
	}
}
