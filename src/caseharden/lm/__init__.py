"""Language models: loading, text to tensors, tensors through the model, and what a folder says of itself."""
