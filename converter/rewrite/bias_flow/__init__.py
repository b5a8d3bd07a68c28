"""Where does each bias go? Constant shifts are followed through the graph until they end."""
