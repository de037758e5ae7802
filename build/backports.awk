# Derives the apt source of a Debian release's backports suite from the sources that the machine already has, so that
# it comes from the same place with the same key, and no mirror is ever written down here.
#
#     awk -v release=bookworm -f backports.awk /etc/apt/sources.list /etc/apt/sources.list.d/*
#
# Reads both formats (.sources: deb822 stanzas; other names: one line each) and prints one deb822 stanza.
# Prints nothing when the suite is configured already; exits 3 when no source of the release itself is found.
#
# With `-v suite=trixie -v kinds="deb deb-src"` it derives another suite than that of the backports, with these types,
# and prints the stanza in any case: for an apt with lists of its own (build/debian.py).

BEGIN { wanted = suite ? suite : release "-backports" }

FNR == 1 { end_stanza(); deb822 = FILENAME ~ /\.sources$/ }
/^[ \t]*#/ { next }
deb822 && /^[ \t]*$/ { end_stanza(); next }
deb822 && /^[ \t]/ { append($0); next }
deb822 { begin_field(); next }
$1 == "deb" { read_line() }

END {
    end_stanza()
    if (present && !suite) exit 0
    if (stanza == "") exit 3
    printf "%s", stanza
}

function begin_field(    colon) {
    colon = index($0, ":")
    field = tolower(substr($0, 1, colon - 1))
    value[field] = substr($0, colon + 1)
    # What is copied as it stands: everything but the fields that differ.
    if (field != "types" && field != "suites" && field != "enabled") rest = rest $0 "\n"
}

function append(line) {
    value[field] = value[field] " " line
    # An inline key continues over lines, and its indentation is part of it.
    if (field != "types" && field != "suites" && field != "enabled") rest = rest line "\n"
}

function end_stanza() {
    if (has(value["types"], "deb") && tolower(value["enabled"]) !~ /no|false/) offer(value["suites"], rest)
    split("", value)
    rest = field = ""
}

function read_line(    first, options, i, pair, text) {
    first = 2
    if ($2 ~ /^\[/) {
        options = $0
        sub(/^[^[]*\[/, "", options)
        sub(/\].*/, "", options)
        while ($first !~ /\]$/) first++
        first++
    }
    text = "URIs: " $first "\nComponents:"
    for (i = first + 2; i <= NF && $i !~ /^#/; i++) text = text " " $i
    text = text "\n"
    for (i = split(options, pair, " "); i > 0; i--) text = text option_field(pair[i])
    offer($(first + 1), text)
}

function option_field(pair,    equals, name, words) {
    equals = index(pair, "=")
    name = substr(pair, 1, equals - 1)
    words = substr(pair, equals + 1)
    gsub(/,/, " ", words)
    if (name == "arch") name = "Architectures"
    else if (name == "lang") name = "Languages"
    else name = toupper(substr(name, 1, 1)) substr(name, 2)
    return name ": " words "\n"
}

function offer(suites, text) {
    if (has(suites, wanted)) present = 1
    if (stanza == "" && has(suites, release)) stanza = "Types: " (kinds ? kinds : "deb") "\nSuites: " wanted "\n" text
}

function has(list, word,    words, i) {
    for (i = split(list, words, /[ \t]+/); i > 0; i--) if (words[i] == word || words[i] == word "/") return 1
    return 0
}
