# Completion of gfxplane and gfxplane-probe for fish. The programs themselves say what fits.
function __gfxplane_complete
    set -l words (commandline -opc) (commandline -ct)
    set -lx _GFXPLANE_COMPLETE (math (count $words) - 1)
    command $words[1] -- $words 2>/dev/null
end
complete -c gfxplane -f -a '(__gfxplane_complete)'
complete -c gfxplane-probe -f -a '(__gfxplane_complete)'
