module github.com/herd-ml/herd

go 1.26.0
