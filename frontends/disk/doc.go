// Package disk is the tool vitastor-disk: it makes disks into OSDs, shows and
// changes their superblocks, dumps, checks, resizes and starts them.
// Spec: cli.md §1 and §3, ondisk.md §1.
//
// Guarantee: nothing is written to a device which is mounted, held by another
// device, locked or open by another process, and nothing to a device that has
// data unless --force is given, which then says what it overwrites. Writes are
// ordered so that a crash leaves the old state, the new one, or a device that
// refuses to start; what cannot be done that way is refused. Errors name the
// device and what to do.
//
// The data path is plain positioned I/O past the page cache; all meaning of
// the bytes is in osd/store/layout. Other programs (sfdisk, blkid, wipefs,
// systemctl, udevadm, vitastor-cli) are run through the interface Programs.
//
// Concurrency: a Tool runs one command at a time on the calling goroutine.
//
// The files, in reading order: tool.go, commands.go, args.go (the program);
// device.go, node.go, content.go, target.go (one device: I/O, what it is, what is on it,
// may it be used); superblock.go, osd.go (an OSD); then a file per command.
package disk
