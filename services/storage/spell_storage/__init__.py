"""Keeps bytes: journals of runs, blobs and manifests of files, and code as git repositories."""
