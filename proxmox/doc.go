// Package proxmox is the storage plugin of Proxmox VE for Vitastor, in Perl:
//
//	perl5/PVE/Storage/Custom/VitastorPlugin.pm   what Proxmox loads
//	perl5/PVE/Storage/Vitastor/                  its parts
//	t/*.t                                        tests against stand-ins of Proxmox and of our programs
//	t/cluster/*.t                                tests against a real cluster
//	scripts/                                     of the Debian package pve-storage-vitastor
//
// In Go there are only the tests that run the others.
//
// Guarantee: the plugin calls programs and keeps no state but sockets and links
// of this node, so that any method may be killed and repeated.
//
// Concurrency: Proxmox runs methods in many processes; see VitastorPlugin.pm.
package proxmox
