mod call; mod data; mod device; mod oracle; mod place; mod rows;
