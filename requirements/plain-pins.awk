# After a pin with extras (`package[extra]==1`) comes the same without: uv writes the first alone, and pip in hash mode
# before 24 takes it for no pin of `package`.
/^[^ #]/ { plain = "" }
/^[^ #]+\[[^ ]*==/ { plain = $0; sub(/\[[^]]*\]/, "", plain) }
/^    --hash/ && plain { plain = plain "\n" $0 }
/^    # via/ && plain { print plain; plain = "" }
{ print }
