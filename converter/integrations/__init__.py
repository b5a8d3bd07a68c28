"""Where people already are: tests, other optimisers, attestations, configuration, other tools' passes."""
