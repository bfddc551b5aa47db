module example.org/example

go 1.24
