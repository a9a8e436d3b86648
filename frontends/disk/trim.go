package disk

import (
	"fmt"

	"github.com/spf13/cobra"

	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
)

func (t *Tool) trimCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "trim OSD|DEV...", Short: "Discard the free space of stopped OSDs",
		Long: `Discards data blocks to which no metadata entry refers. The OSDs must be stopped. An OSD that cannot be trimmed is
skipped with a message; the exit status is always 0.`,
		Example: examples("vitastor-disk trim /dev/vitastor/osd1-data", "vitastor-disk trim --min_discard_size 4M 1 2"),
		Args:    cobra.MinimumNArgs(1),
	}
	textOptions(cmd, []textOption{{"min_discard_size", "smallest range to discard, default 1M"},
		{"discard_granularity", "discard whole multiples of this, default: that of the device"}})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o := given(cmd)
		for _, path := range args {
			if err := t.trim(osdDevice(path), o); err != nil {
				t.note("%v: not trimmed", err)
			}
		}
		return nil
	}
	return cmd
}

func (t *Tool) trim(path string, o layout.Options) error {
	s, err := t.openOSD(path, access{write: true, lock: true, exclusive: true})
	if err != nil {
		return err
	}
	defer s.Close()
	least, err := o.Size("min_discard_size", 1<<20)
	if err != nil {
		return err
	}
	unit, err := o.Size("discard_granularity", uint64(max(s.Data.Facts.DiscardGranularity, 0)))
	if err != nil {
		return err
	}
	if unit == 0 {
		return fmt.Errorf("%s: the device does not support discard", s.Data.Path)
	}
	used, err := s.referenced(t)
	if err != nil {
		return err
	}
	total := uint64(0)
	for _, r := range freeRanges(s.Params, used, unit) {
		if r.Bytes < least {
			continue
		}
		if err := s.Data.Discard(r.Offset, r.Bytes); err != nil {
			return err
		}
		total += r.Bytes
	}
	t.print("%s: discarded %s", path, humanBytes(total))
	return nil
}

// referenced marks every data block that any entry refers to, overwritten and
// rolled back ones too. Damaged metadata is an error: what it refers to is
// not known.
func (s *OSD) referenced(t *Tool) (meta.Bitmap, error) {
	g := &s.Params.Geometry
	head := make([]byte, layout.MetaSuperblockBytes)
	if _, err := s.Meta.ReadAt(head, int64(s.Params.Meta.Offset)); err != nil {
		return nil, err
	}
	sb, _, err := layout.DecodeMetaSuperblock(head)
	if err == nil {
		err = sb.Match(s.Params.MetaSuperblock(0))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Meta.Path, err)
	}
	used := make(meta.Bitmap, (g.BlockCount+7)/8)
	return used, s.metaReader(t.progress("reading metadata", s.Params.Meta.Bytes), func(number uint32, b []byte) error {
		for scan := g.ScanBlock(b); scan.Next(); {
			if err := scan.Error(number); err != nil {
				return fmt.Errorf("%s: %w: run vitastor-disk check", s.Meta.Path, err)
			}
			if e := scan.Entry; !e.Garbage() && e.IsBig() {
				used.SetRange(int(e.Block()), int(e.Block())+1)
			}
		}
		return nil
	})
}

// freeRanges are the ranges of the data device without used blocks, cut to
// multiples of unit.
func freeRanges(p *layout.Params, used meta.Bitmap, unit uint64) (list []layout.Area) {
	count := int(p.Geometry.BlockCount)
	for from := 0; from < count; {
		if used.Get(from) {
			from++
			continue
		}
		to := from
		for to < count && !used.Get(to) {
			to++
		}
		start := (p.DataOffset(layout.BlockNum(from)) + unit - 1) / unit * unit
		end := p.DataOffset(layout.BlockNum(to)) / unit * unit
		if end > start {
			list = append(list, layout.Area{Offset: start, Bytes: end - start})
		}
		from = to
	}
	return list
}
