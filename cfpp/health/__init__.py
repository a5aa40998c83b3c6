"""What `cfpp doctor` looks at: small checks, each of which returns what it found and what to do about it.

`installation` knows what is installed, `demands` what the params ask of this computer, `project` the folder,
`services` what answers over a socket; `examination` runs them all.
"""
