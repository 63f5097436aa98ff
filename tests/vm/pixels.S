/* A boot sector that paints every vfio sample device on bus 0, and halts. Its pixel at x, y is
 * red x, green y, blue x ^ y ^ (x >> 8) << 6 ^ (y >> 8) << 4 ^ SEED, each modulo 256: up to
 * 1024x1024 no two pixels have the same colour, so nothing can be moved, mixed up or left out
 * unseen. The fourth byte is 0, and opaque all the same: these formats have no alpha.
 *
 * mdpy tells its mode in a capability. mbochs is given one in its registers, with lines that
 * are longer than the picture. Defined by who assembles this: SEED, WIDTH, HEIGHT, LINE (pixels).
 */
	.set	CONFIG_ADDRESS, 0xcf8
	.set	CONFIG_DATA, 0xcfc
	.set	XRGB8888, 0x34325258		# "XR24"

	.text
	.globl	_start
	.code16
_start:
	cli
	xor	%ax, %ax
	mov	%ax, %ds
	in	$0x92, %al			# a BAR may have bit 20: the A20 gate
	or	$2, %al
	out	%al, $0x92
	lgdt	gdt_register
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	ljmp	$8, $flat

	.code32
flat:
	mov	$16, %ax
	mov	%ax, %ds
	mov	%ax, %es
	mov	%ax, %ss
	mov	$_start, %esp
	mov	$0x80000000, %ebx		# slot 0 of bus 0
slot:
	xor	%al, %al
	call	config
	cmp	$0x000f1b36, %eax
	je	mdpy
	cmp	$0x11111234, %eax
	je	mbochs
next:
	add	$1 << 11, %ebx
	cmp	$0x80010000, %ebx
	jb	slot
stop:
	hlt
	jmp	stop

mdpy:
	mov	$0x34, %al			# the first capability is its own
	call	config
	mov	%al, %cl
	lea	4(%ecx), %eax
	call	config
	cmp	$XRGB8888, %eax
	jne	next
	lea	8(%ecx), %eax
	call	config
	mov	%eax, width
	lea	12(%ecx), %eax
	call	config
	mov	%eax, height
	movl	$0, gap
	call	enable
	jmp	paint

mbochs:
	call	enable
	mov	$0x18, %al			# BAR 2: the DISPI registers, 16 bits each, from 0x500 on
	call	config
	and	$~15, %eax
	movw	$WIDTH, 0x502(%eax)
	movw	$HEIGHT, 0x504(%eax)
	movw	$32, 0x506(%eax)
	movw	$LINE, 0x50c(%eax)
	movw	$0, 0x510(%eax)
	movw	$0, 0x512(%eax)
	movw	$0x41, 0x508(%eax)		# enabled, linear
	movl	$WIDTH, width
	movl	$HEIGHT, height
	movl	$(LINE - WIDTH) * 4, gap

paint:
	mov	$0x10, %al			# BAR 0: the pixels
	call	config
	and	$~15, %eax
	jz	next
	mov	%eax, %edi
	xor	%edx, %edx			# y
line:
	xor	%ecx, %ecx			# x
pixel:
	mov	%ch, %al
	shl	$2, %al
	xor	%dh, %al
	shl	$4, %al
	xor	%cl, %al
	xor	%dl, %al
	xor	$SEED, %al
	movzbl	%cl, %esi
	shl	$16, %esi
	movzbl	%al, %eax
	mov	%dl, %ah
	or	%esi, %eax
	stosl
	inc	%ecx
	cmp	width, %ecx
	jb	pixel
	add	gap, %edi
	inc	%edx
	cmp	height, %edx
	jb	line
	jmp	next

/* Has the device of slot %ebx decode its memory. */
enable:
	mov	$4, %al
	call	config
	or	$2, %al
	out	%ax, %dx			# not the upper half: ones clear the status there
	ret

/* %eax: register %al of slot %ebx. %dx stays the port of its data. */
config:
	movzbl	%al, %eax
	or	%ebx, %eax
	mov	$CONFIG_ADDRESS, %dx
	out	%eax, %dx
	mov	$CONFIG_DATA, %dx
	in	%dx, %eax
	ret

	.balign	8
gdt:
	.quad	0
	.quad	0x00cf9a000000ffff		# all memory as code
	.quad	0x00cf92000000ffff		# and as data
gdt_register:
	.word	. - gdt - 1
	.long	gdt
width:	.long	0
height:	.long	0
gap:	.long	0				# bytes from the end of a line to the next

	.org	510
	.word	0xaa55
