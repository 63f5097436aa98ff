complete -c gfxplane-probe -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane-probe -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane-probe -l type -d 'Ask an mdev type of which no device exists yet' -r
complete -c gfxplane-probe -l path -d 'Open the device only this way: group (/dev/vfio/GROUP), or cdev (its own node, with iommufd)' -r
complete -c gfxplane-probe -l deadline -d 'Wait at most this long for a driver\'s answer' -r
complete -c gfxplane-probe -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane-probe -l all -d 'Ask every device that gfxplane may open unasked under the policy'
complete -c gfxplane-probe -l instantiate -d 'Create a device of that type, ask it, and remove it'
complete -c gfxplane-probe -l force -d 'Create it even if nobody else can then create one of this type or of another'
complete -c gfxplane-probe -l fresh -d 'Ask the device even if its record still holds'
complete -c gfxplane-probe -l unasked -d 'Open only devices that may be opened unasked (for the daemon)'
complete -c gfxplane-probe -l json -d 'Print JSON, with all answers of the device'
complete -c gfxplane-probe -s h -l help -d 'Print help (see more with \'--help\')'
complete -c gfxplane-probe -s V -l version -d 'Print version'
