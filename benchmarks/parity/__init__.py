"""Methods of this library against their authors' code, from equal parameters and draws; by hand."""
