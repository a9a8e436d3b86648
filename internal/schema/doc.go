// Package schema is the vocabulary of the cluster's state in etcd: the name
// of every key, the JSON of every value, and the compares that guard every
// write (spec etcd.md §1, §2, §6, §7; docs/ETCD.md has the table).
//
// Guarantee: whatever a reader finds in etcd, it gets a value and perhaps an
// error, never a panic; and whatever a writer stores through this package, a
// reference program of the same cluster reads as meant. In particular OSD
// numbers of pg/config are decimal strings with the number 0 for an empty
// slot, 64-bit numbers never pass through float64, and fields that we do not
// know survive a read-modify-write where the reference keeps them too.
//
// Everything here is a pure function of its arguments: no I/O, no clock. Values
// may be shared by goroutines as long as nobody changes them.
//
// # How values are read
//
//	nothing, null    the key does not exist: the zero value, no error
//	number field     JSON number (fraction cut off) or decimal string; a string
//	                 that only begins with a number reads as 0, like in the
//	                 reference, and so does a value of another type; a string
//	                 that does not begin with a digit is an error
//	bool field       true, false, any number, "true" "yes" "1" "false" "no" "0"
//	                 and ""
//	unknown field    ignored, or kept (config/pools, config/osd/N, pg/config,
//	                 pg/history, config/global, config/node_placement)
//
// A decoder that returns an error has read everything else: the value holds
// all other fields. Errors are *FieldError, joined, and name the key and the
// field. Whether the rest may be used is said at each decoder.
//
// # Reading order
//
// key.go (names), json.go and number.go (reading), object.go (keeping what we
// do not know), then one file per group of keys, then txn_*.go.
package schema
