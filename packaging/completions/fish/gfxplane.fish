# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_gfxplane_global_optspecs
    string join \n root= c/connect= q/quiet json html= all color= h/help V/version
end

function __fish_gfxplane_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_gfxplane_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_gfxplane_using_subcommand
    set -l cmd (__fish_gfxplane_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c gfxplane -n "__fish_gfxplane_needs_command" -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane -n "__fish_gfxplane_needs_command" -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane -n "__fish_gfxplane_needs_command" -l html -d 'Without a verb: write the overview to this file, as one page of HTML (- for stdout)' -r -F
complete -c gfxplane -n "__fish_gfxplane_needs_command" -l color -d 'Without a verb: when to colour the overview' -r -f -a "auto\t''
always\t''
never\t''"
complete -c gfxplane -n "__fish_gfxplane_needs_command" -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -l json -d 'Without a verb: print the overview as JSON'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -l all -d 'Without a verb: leave nothing out: other devices, unused virtual functions, notes'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -s h -l help -d 'Print help'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -s V -l version -d 'Print version'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -f -a "list" -d 'List vfio devices, their displays, and what these need'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -f -a "check" -d 'Check whether domains will start and their screens will be visible'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -f -a "collect" -d 'Record this host in a directory, as a test case or for a bug report'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -f -a "doctor" -d 'Find what stands between this host and a working display'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -f -a "explain" -d 'Explain a message of QEMU or libvirt about screens, or a domain\'s log'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -f -a "export" -d 'Write what is known of this host for a fleet\'s tools'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -f -a "fixup" -d 'Make a domain\'s XML match its vfio devices'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -f -a "learn" -d 'Learn the displays of a domain\'s devices from the log of its last start'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -f -a "undo" -d 'Undo what gfxplane changed in a domain'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -f -a "log" -d 'List what was done to domains, and why'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -f -a "policy" -d 'Show or set a domain\'s policy'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -f -a "probe" -d 'Ask devices what display they have'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -f -a "qemu" -d 'Find out what the host\'s QEMU and libvirt can do, and keep the answer'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -f -a "rules" -d 'List the rules that match devices or types of this host'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -f -a "verify" -d 'Tell whether a domain starts, by starting a small copy of it for a moment'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -f -a "watch" -d 'Keep the definitions of all domains right, as a service'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -f -a "nodedev-list" -d 'List the node devices to which nodedev-dumpxml adds a capability'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -f -a "nodedev-dumpxml" -d 'Print the XML of a node device with the vfio_display capability'
complete -c gfxplane -n "__fish_gfxplane_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand list" -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand list" -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand list" -l types -d 'List mdev types with their parents instead of devices'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand list" -l json -d 'Print JSON: devices, types and warnings'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand list" -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand list" -s h -l help -d 'Print help'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand check" -l qemu -d 'Assume this version of QEMU, instead of that of the domain\'s emulator' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand check" -l libvirt-version -d 'Assume this version of libvirt, instead of the host\'s' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand check" -l policy -d 'Manage these displays: asked, auto, full or off' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand check" -l consent -d 'Allow losing remote viewing (remote), the emulated card (video), or both (all)' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand check" -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand check" -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand check" -l all -d 'Check all domains of libvirt, or of the recorded host'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand check" -l trust-rules -d 'Switch on also displays that are known by a rule alone, of devices that nobody has asked'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand check" -l json -d 'Print JSON'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand check" -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand collect" -l xml -d 'Files with the XML of domains; also records these, without what identifies them, and the abilities of their emulators' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand collect" -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand collect" -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand collect" -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand collect" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand doctor" -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand doctor" -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand doctor" -l json -d 'Print JSON'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand doctor" -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand explain" -l domain -d 'A libvirt domain (name or UUID), or a file with its XML' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand explain" -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand explain" -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand explain" -l json -d 'Print JSON'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand explain" -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand explain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand export" -s o -l output -d 'Write this file, as a whole, instead of stdout' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand export" -l node -d 'nova: the name of the compute node, as openstack hypervisor list has it [default: this host\'s name]' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand export" -l valid -d 'nfd: how long the labels hold' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand export" -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand export" -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand export" -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand export" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand fixup" -l qemu -d 'Assume this version of QEMU, instead of that of the domain\'s emulator' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand fixup" -l libvirt-version -d 'Assume this version of libvirt, instead of the host\'s' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand fixup" -l policy -d 'Manage these displays: asked, auto, full or off' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand fixup" -l consent -d 'Allow losing remote viewing (remote), the emulated card (video), or both (all)' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand fixup" -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand fixup" -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand fixup" -l trust-rules -d 'Switch on also displays that are known by a rule alone, of devices that nobody has asked'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand fixup" -l no-display -d 'Switch all displays of vfio devices off'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand fixup" -l print-diff -d 'Print the difference'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand fixup" -l print-xml -d 'Print the new XML'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand fixup" -l confirm -d 'Show the difference, and ask before defining the domain'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand fixup" -l define -d 'Define the domain with the new XML'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand fixup" -l dry-run -d 'Do everything but define the domain'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand fixup" -l no-trial -d 'Define the domain even if nobody has seen that it starts'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand fixup" -l json -d 'Print the plan and the new XML as JSON'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand fixup" -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand fixup" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand learn" -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand learn" -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand learn" -l json -d 'Print JSON'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand learn" -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand learn" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand undo" -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand undo" -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand undo" -l print-diff -d 'Print the difference, and change nothing'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand undo" -l print-xml -d 'Print the XML, and change nothing'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand undo" -l dry-run -d 'Print what would be put back, and change nothing'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand undo" -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand undo" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand log" -s n -l number -d 'Show only the newest NUMBER entries' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand log" -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand log" -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand log" -l json -d 'Print JSON'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand log" -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand log" -s h -l help -d 'Print help'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand policy" -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand policy" -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand policy" -l clear -d 'Remove the domain\'s own policy first'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand policy" -l json -d 'Print JSON'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand policy" -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand policy" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand probe" -l type -d 'Ask an mdev type of which no device exists yet' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand probe" -l path -d 'Open the device only this way: group (/dev/vfio/GROUP), or cdev (its own node, with iommufd)' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand probe" -l deadline -d 'Wait at most this long for a driver\'s answer' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand probe" -l via -d 'Start a QEMU, paused, that opens the device: for drivers that open for nothing else' -r -f -a "qemu\t'QEMU, through libvirt'"
complete -c gfxplane -n "__fish_gfxplane_using_subcommand probe" -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand probe" -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand probe" -l all -d 'Ask every device that gfxplane may open unasked under the policy'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand probe" -l instantiate -d 'Create a device of that type, ask it, and remove it'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand probe" -l force -d 'Create it even if nobody else can then create one of this type or of another'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand probe" -l fresh -d 'Ask the device even if its record still holds'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand probe" -l unasked -d 'Open only devices that may be opened unasked (for the daemon)'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand probe" -l json -d 'Print JSON, with all answers of the device'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand probe" -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand probe" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand qemu" -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand qemu" -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand qemu" -l json -d 'Print JSON'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand qemu" -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand qemu" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand rules" -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand rules" -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand rules" -l all -d 'List all rules, also those that match nothing here'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand rules" -l json -d 'Print JSON'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand rules" -l export -d 'Write the measurements of this host as rules, for /etc/gfxplane/rules.d of other hosts'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand rules" -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand rules" -s h -l help -d 'Print help'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand verify" -l qemu -d 'Assume this version of QEMU, instead of that of the domain\'s emulator' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand verify" -l libvirt-version -d 'Assume this version of libvirt, instead of the host\'s' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand verify" -l policy -d 'Manage these displays: asked, auto, full or off' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand verify" -l consent -d 'Allow losing remote viewing (remote), the emulated card (video), or both (all)' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand verify" -l deadline -d 'How long it may take until it has started' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand verify" -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand verify" -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand verify" -l trust-rules -d 'Switch on also displays that are known by a rule alone, of devices that nobody has asked'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand verify" -l json -d 'Print JSON'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand verify" -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand watch" -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand watch" -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand watch" -l once -d 'Look at every domain once, and end'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand watch" -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand watch" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand nodedev-list" -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand nodedev-list" -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand nodedev-list" -l all -d 'Also list mdevs that are defined but not active'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand nodedev-list" -l inactive -d 'List only mdevs that are defined but not active'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand nodedev-list" -l offline -d 'Read sysfs, without asking libvirt which devices it shows'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand nodedev-list" -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand nodedev-list" -s h -l help -d 'Print help'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand nodedev-dumpxml" -l root -l host -d 'Read the recorded host in this directory instead of this machine' -r -F
complete -c gfxplane -n "__fish_gfxplane_using_subcommand nodedev-dumpxml" -s c -l connect -d 'Connect to this libvirt' -r
complete -c gfxplane -n "__fish_gfxplane_using_subcommand nodedev-dumpxml" -l offline -d 'Rebuild libvirt\'s part from sysfs instead of asking libvirt'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand nodedev-dumpxml" -l plain -d 'Leave out what gfxplane adds: XML that nodedev-define and nodedev-create take'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand nodedev-dumpxml" -s q -l quiet -d 'Suppress warnings'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand nodedev-dumpxml" -s h -l help -d 'Print help'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand help; and not __fish_seen_subcommand_from list check collect doctor explain export fixup learn undo log policy probe qemu rules verify watch nodedev-list nodedev-dumpxml help" -f -a "list" -d 'List vfio devices, their displays, and what these need'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand help; and not __fish_seen_subcommand_from list check collect doctor explain export fixup learn undo log policy probe qemu rules verify watch nodedev-list nodedev-dumpxml help" -f -a "check" -d 'Check whether domains will start and their screens will be visible'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand help; and not __fish_seen_subcommand_from list check collect doctor explain export fixup learn undo log policy probe qemu rules verify watch nodedev-list nodedev-dumpxml help" -f -a "collect" -d 'Record this host in a directory, as a test case or for a bug report'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand help; and not __fish_seen_subcommand_from list check collect doctor explain export fixup learn undo log policy probe qemu rules verify watch nodedev-list nodedev-dumpxml help" -f -a "doctor" -d 'Find what stands between this host and a working display'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand help; and not __fish_seen_subcommand_from list check collect doctor explain export fixup learn undo log policy probe qemu rules verify watch nodedev-list nodedev-dumpxml help" -f -a "explain" -d 'Explain a message of QEMU or libvirt about screens, or a domain\'s log'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand help; and not __fish_seen_subcommand_from list check collect doctor explain export fixup learn undo log policy probe qemu rules verify watch nodedev-list nodedev-dumpxml help" -f -a "export" -d 'Write what is known of this host for a fleet\'s tools'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand help; and not __fish_seen_subcommand_from list check collect doctor explain export fixup learn undo log policy probe qemu rules verify watch nodedev-list nodedev-dumpxml help" -f -a "fixup" -d 'Make a domain\'s XML match its vfio devices'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand help; and not __fish_seen_subcommand_from list check collect doctor explain export fixup learn undo log policy probe qemu rules verify watch nodedev-list nodedev-dumpxml help" -f -a "learn" -d 'Learn the displays of a domain\'s devices from the log of its last start'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand help; and not __fish_seen_subcommand_from list check collect doctor explain export fixup learn undo log policy probe qemu rules verify watch nodedev-list nodedev-dumpxml help" -f -a "undo" -d 'Undo what gfxplane changed in a domain'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand help; and not __fish_seen_subcommand_from list check collect doctor explain export fixup learn undo log policy probe qemu rules verify watch nodedev-list nodedev-dumpxml help" -f -a "log" -d 'List what was done to domains, and why'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand help; and not __fish_seen_subcommand_from list check collect doctor explain export fixup learn undo log policy probe qemu rules verify watch nodedev-list nodedev-dumpxml help" -f -a "policy" -d 'Show or set a domain\'s policy'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand help; and not __fish_seen_subcommand_from list check collect doctor explain export fixup learn undo log policy probe qemu rules verify watch nodedev-list nodedev-dumpxml help" -f -a "probe" -d 'Ask devices what display they have'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand help; and not __fish_seen_subcommand_from list check collect doctor explain export fixup learn undo log policy probe qemu rules verify watch nodedev-list nodedev-dumpxml help" -f -a "qemu" -d 'Find out what the host\'s QEMU and libvirt can do, and keep the answer'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand help; and not __fish_seen_subcommand_from list check collect doctor explain export fixup learn undo log policy probe qemu rules verify watch nodedev-list nodedev-dumpxml help" -f -a "rules" -d 'List the rules that match devices or types of this host'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand help; and not __fish_seen_subcommand_from list check collect doctor explain export fixup learn undo log policy probe qemu rules verify watch nodedev-list nodedev-dumpxml help" -f -a "verify" -d 'Tell whether a domain starts, by starting a small copy of it for a moment'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand help; and not __fish_seen_subcommand_from list check collect doctor explain export fixup learn undo log policy probe qemu rules verify watch nodedev-list nodedev-dumpxml help" -f -a "watch" -d 'Keep the definitions of all domains right, as a service'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand help; and not __fish_seen_subcommand_from list check collect doctor explain export fixup learn undo log policy probe qemu rules verify watch nodedev-list nodedev-dumpxml help" -f -a "nodedev-list" -d 'List the node devices to which nodedev-dumpxml adds a capability'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand help; and not __fish_seen_subcommand_from list check collect doctor explain export fixup learn undo log policy probe qemu rules verify watch nodedev-list nodedev-dumpxml help" -f -a "nodedev-dumpxml" -d 'Print the XML of a node device with the vfio_display capability'
complete -c gfxplane -n "__fish_gfxplane_using_subcommand help; and not __fish_seen_subcommand_from list check collect doctor explain export fixup learn undo log policy probe qemu rules verify watch nodedev-list nodedev-dumpxml help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
