"""Mathematics: arrays in, arrays out. No networks, no configs, no input or output."""
