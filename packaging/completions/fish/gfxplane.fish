# Completion of gfxplane and gfxplane-probe for fish. The programs themselves say what fits.
function __gfxplane_complete
    # The word at the cursor still has its quotation marks, and perhaps one that is open.
    set -l typed (commandline -ct)
    # The shell does not replace a tilde that is quoted.
    string match -qr '^[\'"\\\\]~' -- "$typed"; and return
    set -l word (string unescape -- "$typed"; or string unescape -- "$typed'"; or string unescape -- "$typed\"")
    set -l words (commandline -opc) "$word"
    set -lx _GFXPLANE_COMPLETE (math (count $words) - 1)
    command $words[1] -- $words 2>/dev/null
end
complete -c gfxplane -f -a '(__gfxplane_complete)'
complete -c gfxplane-probe -f -a '(__gfxplane_complete)'
