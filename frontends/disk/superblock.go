package disk

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"vitastor/osd/store/layout"
)

// superblock reads the superblock of a device and tells as what it names the
// device: data, meta or journal. With force a superblock of another device is
// accepted; its role is "" then.
func (d *Device) superblock(force bool) (o layout.Options, role string, err error) {
	b := make([]byte, layout.SuperblockBytes)
	if d.Bytes() < uint64(len(b)) {
		return nil, "", fmt.Errorf("%s: only %d bytes long: not the device of an OSD", d.Path, d.Bytes())
	}
	if _, err := d.ReadAt(b, 0); err != nil {
		return nil, "", err
	}
	if size, err := layout.SuperblockSize(b); err == nil && size > len(b) && uint64(size) <= d.Bytes() {
		b = make([]byte, size)
		if _, err := d.ReadAt(b, 0); err != nil {
			return nil, "", err
		}
	}
	if o, err = layout.DecodeSuperblock(b); err != nil {
		return nil, "", fmt.Errorf("%s: %w%s", d.Path, err, superblockHint(err))
	}
	role, err = o.Role(d.Real, realPath)
	if err != nil && !force {
		return nil, "", fmt.Errorf("%s: %w: name the original device; if this is its copy on a new disk, see it with --force and correct it with update-sb --force", d.Path, err)
	}
	return o, role, nil
}

func superblockHint(err error) string {
	if strings.Contains(err.Error(), "no disk superblock") {
		return ": not prepared for an OSD, or wiped; if only this device of the OSD lost it, copy it from another one: read-sb OTHER | write-sb"
	}
	return ": if another device of the OSD has a good copy, run read-sb OTHER | write-sb"
}

// readSuperblock opens a device only to read its superblock.
func (t *Tool) readSuperblock(path string, force bool) (layout.Options, string, error) {
	d, err := openDevice(path, access{cached: t.cached})
	if err != nil {
		return nil, "", err
	}
	defer d.Close()
	return d.superblock(force)
}

// writeSuperblock writes and syncs a superblock.
func (d *Device) writeSuperblock(o layout.Options) error {
	b, err := layout.EncodeSuperblock(o)
	if err != nil {
		return fmt.Errorf("%s: %w", d.Path, err)
	}
	if _, err := d.WriteAt(b, 0); err != nil {
		return err
	}
	return d.Sync()
}

// clearSuperblock deletes a superblock, if there is one.
func (d *Device) clearSuperblock() error {
	if _, err := d.WriteAt(layout.ClearedSuperblock(), 0); err != nil {
		return err
	}
	return d.Sync()
}

// announce lets udev look at a device again, so that its links in
// /dev/vitastor follow the superblock.
func (t *Tool) announce(d *Device) {
	if !d.Facts.BlockDevice {
		return
	}
	if _, err := t.Programs.Output("", "udevadm", "trigger", "--settle", d.Real); err != nil {
		t.note("warning: %s: links in /dev/vitastor are not up to date: %v", d.Path, err)
	}
}

// osdDevice is the argument OSD|DEV.
func osdDevice(arg string) string {
	if arg != "" && strings.Trim(arg, "0123456789") == "" {
		return "/dev/vitastor/osd" + arg + "-data"
	}
	return arg
}

func (t *Tool) readSbCommand() *cobra.Command {
	return &cobra.Command{
		Use: "read-sb [--force] OSD|DEV", Short: "Show the superblock of an OSD",
		Long:    "Prints the parameters of an OSD as one line of JSON. --force: also from a device which the superblock does not name.",
		Example: examples("vitastor-disk read-sb /dev/vitastor/osd1-data"),
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			o, _, err := t.readSuperblock(osdDevice(args[0]), t.force)
			if err == nil {
				t.print("%s", o.JSON())
			}
			return err
		}}
}

func (t *Tool) writeSbCommand() *cobra.Command {
	return &cobra.Command{
		Use: "write-sb DEV", Short: "Write a superblock read from standard input",
		Long: `Writes the JSON from standard input as the superblock of DEV. It must name DEV as one of its devices.
A device with something else than an OSD on it is refused unless --force is given.`,
		Example: examples("vitastor-disk read-sb /dev/sdb1 > osd1.json", "vitastor-disk write-sb /dev/sdb1 < osd1.json"),
		Args:    cobra.ExactArgs(1),
		RunE:    func(_ *cobra.Command, args []string) error { return t.writeSb(args[0]) },
	}
}

func (t *Tool) writeSb(path string) error {
	text, err := io.ReadAll(io.LimitReader(t.In, 1<<20))
	if err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	o, err := layout.ParseOptions(text)
	if err == nil {
		err = layout.CheckSuperblock(o)
	}
	if err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	d, err := t.openForSuperblock(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := o.Role(d.Real, realPath); err != nil && !t.force {
		return fmt.Errorf("%s: standard input is a superblock for other devices (%w): correct data_device, meta_device or journal_device", path, err)
	}
	found, err := d.Look()
	if err != nil {
		return err
	}
	if found.What != "" && found.OSD == nil {
		if !t.force && !strings.HasPrefix(found.What, "a damaged OSD superblock") {
			return fmt.Errorf("%s: has %s: use --force to overwrite its first 4096 bytes", path, found.What)
		}
		t.note("warning: %s: overwriting %s", path, found.What)
	}
	return t.replaceSuperblock(d, o)
}

// openForSuperblock opens a device which may belong to a running OSD, but not
// to anything else.
func (t *Tool) openForSuperblock(path string) (*Device, error) {
	n, err := findNode(path)
	if err != nil {
		return nil, err
	}
	if why := n.busy(); why != "" {
		return nil, fmt.Errorf("%s: %s", path, why)
	}
	return openDevice(path, access{write: true, cached: t.cached})
}

func (t *Tool) replaceSuperblock(d *Device, o layout.Options) error {
	if err := d.writeSuperblock(o); err != nil {
		return err
	}
	t.announce(d)
	return nil
}

func (t *Tool) updateSbCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "update-sb OSD|DEV [--force] --KEY VALUE ...", Short: "Change parameters in the superblock of an OSD",
		Long: `Sets parameters in the superblock of DEV; an empty VALUE removes one. They take effect when the OSD starts.
Every device of an OSD has its own copy: run it for each of them. --force: also if the superblock names other devices.`,
		Example: examples("vitastor-disk update-sb /dev/vitastor/osd1-data --max_write_iodepth 64",
			"vitastor-disk update-sb 1 --throttle_small_writes 1 --atomic_write_size 0"),
		DisableFlagParsing: true,
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error { return t.updateSb(cmd, args) }
	return cmd
}

// updateSb takes any option as a parameter, so it reads its command line
// itself. Compat: --io is stored like any other (spec cli.md §3.3).
func (t *Tool) updateSb(cmd *cobra.Command, args []string) error {
	path, set := "", layout.Options{}
	for i := 0; i < len(args); i++ {
		name, isOption := strings.CutPrefix(args[i], "--")
		name, value, hasValue := strings.Cut(name, "=")
		name = underscores(name)
		switch {
		case args[i] == "-h" || isOption && name == "help":
			return cmd.Help()
		case isOption && name == "force":
			t.force = true
		case isOption && name == "json":
			t.json = true
		case isOption:
			if !hasValue {
				if i++; i >= len(args) {
					return fmt.Errorf("--%s needs a value", name)
				}
				value = args[i]
			}
			set[name] = value
		case path == "":
			path = osdDevice(args[i])
		default:
			return fmt.Errorf("%s: one device at a time", args[i])
		}
	}
	if path == "" || len(set) == 0 {
		return fmt.Errorf("give a device and at least one --KEY VALUE; see vitastor-disk update-sb --help")
	}
	return t.applyUpdate(path, set)
}

func (t *Tool) applyUpdate(path string, set layout.Options) error {
	d, err := t.openForSuperblock(path)
	if err != nil {
		return err
	}
	defer d.Close()
	o, _, err := d.superblock(t.force)
	if err != nil {
		return err
	}
	for key, value := range set {
		if value == "" && !keepsEmpty(key) {
			delete(o, key)
		} else {
			o[key] = value
		}
	}
	if _, err := o.Role(d.Real, realPath); err != nil && !t.force {
		return fmt.Errorf("%s: after the change it would not be valid (%w): correct the device names, or use --force", path, err)
	}
	if err := t.understand(set); err != nil && !t.force {
		return fmt.Errorf("%s: %w; or use --force", path, err)
	}
	if err := t.parametersFit(o); err != nil && !t.force {
		return fmt.Errorf("%s: the OSD would not start with this change (%w): use resize for sizes and offsets, or --force", path, err)
	}
	if err := t.replaceSuperblock(d, o); err != nil {
		return err
	}
	t.noteOtherCopies(d, o)
	return nil
}

// keepsEmpty tells for which keys an empty text means something.
func keepsEmpty(key string) bool { return key == "meta_device" || key == "journal_device" }

// noteOtherCopies reminds of the superblocks on the other devices.
func (t *Tool) noteOtherCopies(d *Device, o layout.Options) {
	data, metadata, buffer := o.Devices()
	seen := map[string]bool{d.Real: true}
	for _, path := range []string{data, metadata, buffer} {
		real, err := realPath(path)
		if err != nil || seen[real] {
			continue
		}
		seen[real] = true
		if other, _, err := t.readSuperblock(path, false); err == nil && string(other.JSON()) != string(o.JSON()) {
			t.note("note: the copy on %s is different now: repeat the change there", path)
		}
	}
}

func (t *Tool) udevCommand() *cobra.Command {
	return &cobra.Command{
		Use: "udev DEV", Short: "Print udev properties of a device of an OSD (for the udev rule)",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			o, role, err := t.readSuperblock(args[0], false)
			if err != nil {
				return err
			}
			t.print("VITASTOR_OSD_NUM=%d\nVITASTOR_ALIAS=osd%d-%s", o.OSDNum(), o.OSDNum(), role)
			for _, key := range []string{"data", "meta", "journal"} {
				if v := o.Text(key + "_device"); v != "" {
					t.print("VITASTOR_%s_DEVICE=%s", strings.ToUpper(key), escape(v))
				}
			}
			return nil
		}}
}

// escape puts a backslash before everything a shell could take for something
// else.
func escape(s string) string {
	var b strings.Builder
	for _, r := range s {
		safe := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-:=,@%+", r) || r > 127
		if !safe {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
