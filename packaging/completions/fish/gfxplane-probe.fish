complete -c gfxplane-probe -l root -l host -d 'Read a recorded host from this directory instead of this machine' -r -F
complete -c gfxplane-probe -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane-probe -l type -d 'An mdev type of which there is no device yet' -r
complete -c gfxplane-probe -l path -d 'Open it this way and no other: group (/dev/vfio/GROUP), or cdev (its own node, with iommufd)' -r
complete -c gfxplane-probe -l deadline -d 'How long a driver may take to answer' -r
complete -c gfxplane-probe -s q -l quiet -d 'Say nothing of what was passed over'
complete -c gfxplane-probe -l all -d 'All devices that the policy lets us open unasked'
complete -c gfxplane-probe -l instantiate -d 'Make a device of that type, ask it, and remove it'
complete -c gfxplane-probe -l force -d 'Make it even if meanwhile nobody else can make a device of this type, or of another'
complete -c gfxplane-probe -l fresh -d 'Ask the device even if its record still holds'
complete -c gfxplane-probe -l unasked -d 'Open only what may be opened unasked (for the daemon)'
complete -c gfxplane-probe -l json -d 'Print JSON, with everything that the device told'
complete -c gfxplane-probe -s h -l help -d 'Print help (see more with \'--help\')'
complete -c gfxplane-probe -s V -l version -d 'Print version'
