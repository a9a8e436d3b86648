# The boot sector: loads extents of the disk, by the BIOS, to where the boot
# protocol of Linux wants them (Documentation/arch/x86/boot.rst), and jumps.
# The extents are written into the table by image.go.

	.code16
	.globl	_start

	.set	CHUNK_SECTORS, 64
	.set	CHUNK_BYTES, CHUNK_SECTORS * 512
	.set	BOUNCE, 0x20000			# a chunk is read to here, then moved
	.set	SETUP_SEGMENT, 0x1000		# the real-mode part of the kernel

_start:	ljmp	$0, $begin
begin:	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7c00, %sp
	cld
	movb	%dl, drive
	movw	$table, %si

extent:	movw	8(%si), %cx			# chunks left
	jcxz	run
chunk:	pushw	%cx
	pushw	%si
	movl	(%si), %eax			# sector
	movl	%eax, lba
	movl	4(%si), %eax			# address, in three pieces
	movw	%ax, to_low
	shrl	$16, %eax
	movb	%al, to_middle
	movb	%ah, to_high
	movw	$packet, %si
	movb	drive, %dl
	movb	$0x42, %ah			# extended read
	int	$0x13
	jc	failed
	movw	$descriptors, %si
	movw	$CHUNK_BYTES / 2, %cx
	movb	$0x87, %ah			# move to extended memory
	int	$0x15
	jc	failed
	popw	%si
	popw	%cx
	addl	$CHUNK_SECTORS, (%si)
	addl	$CHUNK_BYTES, 4(%si)
	loop	chunk
	addw	$10, %si
	jmp	extent

run:	cli
	movw	$SETUP_SEGMENT, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %fs
	movw	%ax, %gs
	movw	%ax, %ss
	movw	$0xe000, %sp
	ljmp	$SETUP_SEGMENT + 0x20, $0

failed:	movw	$message, %si			# to the first serial port
	movw	$0x3f8, %dx
print:	lodsb
	outb	%al, %dx
	testb	%al, %al
	jnz	print
halt:	hlt
	jmp	halt

message:
	.asciz	"\r\nVM: the boot sector cannot load the kernel\r\n"

	.balign	4
packet:	.byte	16, 0
	.word	CHUNK_SECTORS
	.word	0, BOUNCE >> 4			# offset, segment
lba:	.quad	0

descriptors:
	.quad	0, 0
	.word	0xffff, BOUNCE & 0xffff		# from
	.byte	BOUNCE >> 16, 0x93, 0, 0
	.word	0xffff				# to
to_low:	.word	0
to_middle:
	.byte	0, 0x93, 0
to_high:
	.byte	0
	.quad	0, 0

drive:	.byte	0

	.org	0x180				# image.go: table
table:	.fill	5, 10, 0			# sector, address, chunks; chunks 0 = end

	.org	0x1be				# image.go: partitions
	.fill	64
	.word	0xaa55
