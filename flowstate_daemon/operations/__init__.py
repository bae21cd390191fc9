"""What operators read and do. The pages, the API and the command line all use these modules."""
